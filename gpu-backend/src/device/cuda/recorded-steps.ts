import type { DeviceBuffer } from '../tensor.ts'
import type { CudaContext } from './context.ts'

/** Steps of one shape each; the least recently used one goes. */
const recordsMax = 64

/** Kernels of one step as a graph, and which buffers they were given addresses of. */
interface RecordedStep {
  readonly graph: bigint
  readonly buffers: ReadonlySet<DeviceBuffer>
  readonly result: unknown
  /** Kernels it is made of. */
  readonly launches: number
}

/** A step being recorded while its ops run for the first time. */
export class StepRecording {
  readonly buffers = new Set<DeviceBuffer>()
  readonly #context: CudaContext
  readonly #graph: bigint
  readonly #params = new BigUint64Array(nodeParamsWords)
  readonly #ints = new Uint32Array(this.#params.buffer)
  readonly #last = new BigUint64Array(1)
  #nodes = 0
  #abandoned = false

  constructor(context: CudaContext) {
    this.#context = context
    this.#graph = context.handleOf('cuGraphCreate', 0)
  }

  /** Appends a launch behind those so far. The driver copies the parameters. */
  add(kernel: bigint, shape: readonly number[], pointers: BigUint64Array): void {
    // CUDA_KERNEL_NODE_PARAMS: function, grid, block, shared bytes, then the parameters' addresses.
    this.#params.fill(0n)
    this.#params[0] = kernel
    this.#ints.set(shape, 2)
    this.#params[5] = this.#context.driver.addressOf(pointers)
    const before = this.#nodes > 0 ? this.#last.slice() : null
    this.#last[0] = this.#context.handleOf(
      'cuGraphAddKernelNode_v2',
      this.#graph,
      before,
      before === null ? 0 : 1,
      this.#params,
    )
    this.#nodes++
  }

  get launches(): number {
    return this.#nodes
  }

  /** Something happened that a replay could not do again. */
  abandon(): void {
    this.#abandoned = true
  }

  /** The graph ready to run, or null where it was abandoned or nothing was launched. */
  finish(): bigint | null {
    const usable = !this.#abandoned && this.#nodes > 0
    try {
      return usable ? this.#context.handleOf('cuGraphInstantiateWithFlags', this.#graph, 0) : null
    } finally {
      this.#context.call('cuGraphDestroy', this.#graph)
    }
  }
}

/** Bytes of `CUDA_KERNEL_NODE_PARAMS_v2`, in words of eight. */
const nodeParamsWords = 9

/**
 * Decode steps by key, each one call instead of hundreds. A record holds addresses, so it is
 * dropped as soon as one of the buffers it was given is freed.
 */
export class RecordedSteps {
  readonly #context: CudaContext
  readonly #records = new Map<string, RecordedStep>()
  #replays = 0

  constructor(context: CudaContext) {
    this.#context = context
  }

  /** Steps that were run as a graph. */
  get replays(): number {
    return this.#replays
  }

  /** Kernels of the largest step that is recorded now. */
  get launchesMax(): number {
    return Math.max(0, ...[...this.#records.values()].map(({ launches }) => launches))
  }

  /** Runs the step recorded under `key`, if there is one, and gives what its body gave. */
  replay(key: string): { readonly result: unknown } | null {
    const record = this.#records.get(key)
    if (record === undefined) return null
    this.#context.call('cuGraphLaunch', record.graph, this.#context.stream)
    this.#records.delete(key)
    this.#records.set(key, record)
    this.#replays++
    return record
  }

  keep(key: string, recording: StepRecording, result: unknown): void {
    const graph = recording.finish()
    if (graph === null) return
    const { buffers, launches } = recording
    this.#records.set(key, { graph, buffers, result, launches })
    const [oldest] = this.#records.keys()
    if (this.#records.size > recordsMax && oldest !== undefined) this.#drop(oldest)
  }

  /** Forgets every step that was given this buffer. */
  forget(buffer: DeviceBuffer): void {
    for (const [key, { buffers }] of this.#records) if (buffers.has(buffer)) this.#drop(key)
  }

  close(): void {
    for (const key of this.#records.keys()) this.#drop(key)
  }

  #drop(key: string): void {
    const record = this.#records.get(key)
    if (record === undefined) return
    this.#records.delete(key)
    // The driver keeps a graph that is still running until it has ended.
    this.#context.call('cuGraphExecDestroy', record.graph)
  }
}
