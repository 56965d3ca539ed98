import { createRequire } from 'node:module'

/** A device's number inside the addon. */
export type NativeDevice = number

/**
 * The addon as JavaScript sees it: integers, typed arrays, nothing else. Failures are errors whose
 * `code` is one of `DeviceErrorCode`.
 */
export interface NativeAddon {
  /** `threads` 0: as many as this process may use. `isa` −1: the best this machine has. */
  create(threads: number, isa: number, numerics: number): NativeDevice
  destroy(device: NativeDevice): void
  alloc(device: NativeDevice, bytes: number): number
  free(device: NativeDevice, buffer: number): void
  write(device: NativeDevice, buffer: number, offset: number, bytes: Uint8Array): void
  read(device: NativeDevice, buffer: number, offset: number, into: Uint8Array): void
  /** Runs ops written as words (`words.ts`), one after the other; returns when the last has ended. */
  run(device: NativeDevice, words: Float64Array, count: number): void
  /** Allocated bytes, peak bytes, number of buffers. */
  memory(device: NativeDevice, into: Float64Array): void
  threads(device: NativeDevice): number
  isa(device: NativeDevice): string
  /** Names of the ops; an op's number is its index. */
  ops(): readonly string[]
}

/** Instruction sets by the addon's numbers; a machine without the one asked for takes its best. */
export const isas = { best: -1, portable: 0, avx2: 1, avx512: 2, 'avx512-bf16': 3 } as const
export type Isa = keyof typeof isas

/**
 * How exactly linears are computed. `exact`: inputs keep at least 22 bits. `fast`: inputs are int8
 * per 32 against FP4, bfloat16 against FP8 and bf16 weights.
 */
export const numericsModes = { exact: 0, fast: 1 } as const
export type Numerics = keyof typeof numericsModes

/** Loads what `ensureNativeAddon` built. Throws what Node throws if the file does not load. */
export function loadNativeAddon(path: string): NativeAddon {
  return createRequire(import.meta.url)(path) as NativeAddon
}
