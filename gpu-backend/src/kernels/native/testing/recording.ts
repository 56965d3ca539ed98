import { open } from 'node:fs/promises'
import type { NativeAddon } from '../addon.ts'

/** Calls by the numbers `replay.cc` knows them by. */
const calls = {
  ops: 0,
  label: 1,
  create: 2,
  destroy: 3,
  alloc: 4,
  free: 5,
  write: 6,
  read: 7,
  run: 8,
} as const

interface CallRecord {
  readonly device?: number
  readonly buffer?: number
  readonly value?: number
  readonly payload?: Uint8Array
}

/**
 * Everything a device asked of the addon, with the bytes it read back, so that the same can be done
 * again without Node (`replay.cc`).
 */
export class Recording {
  readonly #pieces: Uint8Array[] = []

  /** An addon that does what `addon` does and remembers it. Ops that were refused are left out. */
  over(addon: NativeAddon, options: { readonly guardBytes: number }): NativeAddon {
    this.#add('ops', { payload: Buffer.from(addon.ops().join('\n')) })
    return {
      ...addon,
      create: (...created) => {
        const device = addon.create(...created)
        const payload = bytesOf(Float64Array.from(created))
        this.#add('create', { device, value: options.guardBytes, payload })
        return device
      },
      destroy: (device) => {
        addon.destroy(device)
        this.#add('destroy', { device })
      },
      alloc: (device, bytes) => {
        const buffer = addon.alloc(device, bytes)
        this.#add('alloc', { device, buffer, value: bytes })
        return buffer
      },
      free: (device, buffer) => {
        addon.free(device, buffer)
        this.#add('free', { device, buffer })
      },
      write: (device, buffer, offset, bytes) => {
        addon.write(device, buffer, offset, bytes)
        this.#add('write', { device, buffer, value: offset, payload: bytes.slice() })
      },
      read: (device, buffer, offset, into) => {
        addon.read(device, buffer, offset, into)
        this.#add('read', { device, buffer, value: offset, payload: into.slice() })
      },
      run: (device, words, count) => {
        addon.run(device, words, count)
        this.#add('run', { device, payload: bytesOf(words.slice(0, count)) })
      },
    }
  }

  /** Names what follows, for messages. */
  label(text: string): void {
    this.#add('label', { payload: Buffer.from(text) })
  }

  async save(path: string): Promise<void> {
    const file = await open(path, 'w')
    try {
      await file.writev(this.#pieces)
    } finally {
      await file.close()
    }
  }

  #add(call: keyof typeof calls, record: CallRecord): void {
    const { device = 0, buffer = 0, value = 0, payload = new Uint8Array() } = record
    this.#pieces.push(bytesOf(Float64Array.of(calls[call], device, buffer, value, payload.length)))
    if (payload.length === 0) return
    this.#pieces.push(payload, new Uint8Array(-payload.length & 7))
  }
}

function bytesOf(words: Float64Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength)
}
