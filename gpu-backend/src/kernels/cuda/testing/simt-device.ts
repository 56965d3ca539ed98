import { spawnSync } from 'node:child_process'
import type { Launch, LaunchTarget, ProductUnits, TileMatrix } from '../../../device/cuda/launch.ts'
import { tileMapBytes } from '../../../device/cuda/tile-maps.ts'
import { type Device, DeviceError, type DeviceFormats } from '../../../device/device.ts'
import type { DeviceBuffer, Tensor } from '../../../device/tensor.ts'
import type { OpTable } from '../../registry.ts'
import { launchers } from '../launchers.ts'

export type RunOrder = 'forward' | 'reverse' | 'random'

/** A kernel's own message: what a sanitizer or the SIMT runtime found wrong. */
export class SimtError extends Error {
  override readonly name = 'SimtError'
}

const counterBytes = 1 << 16
/** Marks a pointer for `run.cc`, which knows where its buffers are. */
const pointerTag = 0x51n << 56n

/**
 * The CUDA kernels on the host, each op in a process of its own (`cuda/simt/run.cc`): for builds with a
 * sanitizer, under which Node does not run. Memory lies here and travels with each op.
 */
export class SimtDevice implements Device {
  readonly name = 'cuda'
  readonly formats: DeviceFormats = {
    activations: 'f32',
    keys: 'f32',
    indexKeys: 'f32',
    compactRows: true,
  }
  /** Kernels launched so far, by name. */
  readonly launched: string[] = []
  readonly #program: string
  readonly #products: ProductUnits
  readonly #environment: NodeJS.ProcessEnv
  readonly #buffers = new Map<DeviceBuffer, Uint8Array>()
  #lastHandle = 0

  constructor(program: string, order: RunOrder = 'forward', products: ProductUnits = 'mma') {
    this.#program = program
    this.#products = products
    // Fibers come and go under names of their own; memory of a run need not be given back.
    this.#environment = {
      SLUICE_SIMT_ORDER: order,
      ASAN_OPTIONS: 'detect_leaks=0:detect_stack_use_after_return=0',
      TSAN_OPTIONS: 'halt_on_error=1:report_signal_unsafe=0:atexit_sleep_ms=0',
    }
  }

  alloc(bytes: number): DeviceBuffer {
    const handle = ++this.#lastHandle as DeviceBuffer
    this.#buffers.set(handle, new Uint8Array(bytes))
    return handle
  }

  free(buffer: DeviceBuffer): void {
    this.#buffers.delete(buffer)
  }

  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    this.#bytes(buffer).set(bytes, offset)
  }

  read(buffer: DeviceBuffer, offset: number, into: Uint8Array): void {
    into.set(this.#bytes(buffer).subarray(offset, offset + into.length))
  }

  run<Op extends keyof OpTable>(op: Op, args: OpTable[Op]): void {
    const launcher = launchers[op]
    if (launcher === undefined) {
      throw new DeviceError('unsupported_op', 'cuda', `there is no op ${op}`)
    }
    const used = new UsedBuffers()
    this.launch(launcher(args, this.#target(used)), used)
  }

  /** Runs launches on the buffers their pointers lead to. */
  launch(launches: readonly Launch[], used: UsedBuffers): void {
    const contents = used.handles.map((handle) => this.#bytes(handle))
    const all = [...contents.map((bytes, place) => ({ place, bytes })), ...used.scratch]
    const input = [...buffersOf(all), ...launchesOf(launches)]
    const { status, signal, stdout, stderr } = spawnSync(this.#program, {
      input: Buffer.concat(input),
      env: this.#environment,
      maxBuffer: 2 ** 31,
    })
    if (status !== 0) throw new SimtError(`${signal ?? status}: ${stderr.toString()}`)
    this.launched.push(...launches.map(({ kernel }) => kernel))
    let at = 0
    for (const { bytes } of all) {
      bytes.set(stdout.subarray(at, at + bytes.length))
      at += bytes.length
    }
    const dirty = used.counters?.some((byte) => byte !== 0) ?? false
    if (dirty) throw new SimtError(`${launches.at(-1)?.kernel} leaves its counters other than zero`)
  }

  synchronise(): void {
    // Every op has run when it returns.
  }

  memory(): { allocatedBytes: number; peakBytes: number; buffers: number } {
    let allocatedBytes = 0
    for (const bytes of this.#buffers.values()) allocatedBytes += bytes.length
    return { allocatedBytes, peakBytes: allocatedBytes, buffers: this.#buffers.size }
  }

  close(): void {
    this.#buffers.clear()
  }

  #target(used: UsedBuffers): LaunchTarget {
    return {
      gpu: { architecture: 90, multiprocessors: 4, sharedBytesMax: 48 * 1024 },
      formats: this.formats,
      products: this.#products,
      tileMap,
      address: (tensor: Tensor) => used.pointer(tensor.buffer) + BigInt(tensor.byteOffset),
      scratch: (name, bytes) => used.scratchPointer(name, bytes),
      counters: (count) => used.counterPointer(count),
    }
  }

  #bytes(buffer: DeviceBuffer): Uint8Array {
    const bytes = this.#buffers.get(buffer)
    if (bytes !== undefined) return bytes
    throw new DeviceError('unknown_buffer', 'cuda', `there is no buffer ${buffer}`)
  }
}

interface PlacedBytes {
  readonly place: number
  readonly bytes: Uint8Array
}

/** What the launches of one op may touch. Scratch lies behind the buffers, whose number it must know. */
export class UsedBuffers {
  readonly handles: DeviceBuffer[] = []
  readonly #scratch = new Map<string, PlacedBytes>()
  counters: Uint8Array | null = null

  get scratch(): readonly PlacedBytes[] {
    return [...this.#scratch.values()]
  }

  pointer(buffer: DeviceBuffer): bigint {
    let place = this.handles.indexOf(buffer)
    if (place < 0) place = this.handles.push(buffer) - 1
    return pointerTo(place)
  }

  /** Rubbish, as a device's scratch is. Its buffers are numbered from the end of what pointers can say. */
  scratchPointer(name: string, bytes: number): bigint {
    const known = this.#scratch.get(name)
    if (known !== undefined) return pointerTo(known.place)
    const place = scratchPlaces + this.#scratch.size
    this.#scratch.set(name, { place, bytes: new Uint8Array(bytes).fill(0xff) })
    return pointerTo(place)
  }

  counterPointer(count: number): bigint {
    const pointer = this.scratchPointer('counters', Math.max(counterBytes, 4 * count))
    this.counters = this.#scratch.get('counters')?.bytes.fill(0) ?? null
    return pointer
  }
}

/** Pointers to scratch are given out before it is known how many buffers there are. */
const scratchPlaces = 0x8000

function pointerTo(place: number): bigint {
  return pointerTag | (BigInt(place) << 40n)
}

/** As `tensor-map.h` has it; the pointer in it is one of those that `run.cc` knows. */
export function tileMap({ address, rows, columns, tileRows }: TileMatrix): Uint8Array {
  const map = new Uint8Array(tileMapBytes)
  const view = new DataView(map.buffer)
  const [mark, swizzle] = [0x1e7500aa51n, 3n]
  const words = [mark, address, BigInt(columns), BigInt(rows), BigInt(columns)]
  for (const [i, word] of words.entries()) view.setBigUint64(8 * i, word, true)
  view.setUint32(40, 128, true)
  view.setUint32(44, tileRows, true)
  view.setBigUint64(48, swizzle, true)
  return map
}

function words(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(8 * values.length)
  for (const [i, value] of values.entries()) bytes.writeBigUInt64LE(BigInt(value), 8 * i)
  return bytes
}

function buffersOf(buffers: readonly PlacedBytes[]): readonly Uint8Array[] {
  const each = buffers.flatMap(({ place, bytes }) => [words(place, bytes.length), bytes])
  return [words(buffers.length), ...each]
}

function launchesOf(launches: readonly Launch[]): readonly Uint8Array[] {
  return [
    words(launches.length),
    ...launches.flatMap(({ kernel, grid, block, sharedBytes, args }) => {
      const struct = args[0]?.as === 'struct' ? args[0].value : new Uint8Array()
      const head = words(...grid, ...block, sharedBytes, struct.length)
      return [words(kernel.length), Buffer.from(kernel), head, struct]
    }),
  ]
}
