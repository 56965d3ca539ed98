/** A card as its driver reports it. */
export interface GpuKind {
  readonly name: string
  /** What `nvidia-smi` calls total memory, in bytes: less than the name on the box says. */
  readonly memoryBytes: number
}

const mib = 2 ** 20

export const gpuKinds: readonly GpuKind[] = [
  { name: 'H100', memoryBytes: 81_559 * mib },
  { name: 'H200', memoryBytes: 143_771 * mib },
  { name: 'B200', memoryBytes: 183_359 * mib },
]

/** So many cards of one kind in one machine. */
export interface GpuSet {
  readonly count: number
  readonly kind: GpuKind
}

/** Reads `4xH200`; null where it says nothing of the kind. */
export function parseGpuSet(text: string): GpuSet | null {
  const [, count = '', name = ''] = /^([1-9]\d?)x(\w+)$/.exec(text) ?? []
  const kind = gpuKinds.find((known) => known.name === name.toUpperCase())
  return kind === undefined ? null : { count: Number(count), kind }
}
