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

/**
 * A step being recorded while its ops run for the first time. Kernels of one GPU follow one another;
 * those of several wait for each other only where the GPUs meet.
 */
export class StepRecording {
  readonly buffers = new Set<DeviceBuffer>()
  readonly #context: CudaContext
  readonly #graph: bigint
  readonly #params = new BigUint64Array(nodeParamsWords)
  readonly #ints = new Uint32Array(this.#params.buffer)
  /** Of each GPU: what its next kernel runs behind. */
  readonly #last = new Map<CudaContext, BigUint64Array>()
  #nodes = 0
  #abandoned = false

  constructor(context: CudaContext) {
    this.#context = context
    this.#graph = context.handleOf('cuGraphCreate', 0)
  }

  /** Appends a launch behind those of its GPU so far. The driver copies the parameters. */
  add(
    context: CudaContext,
    kernel: bigint,
    shape: readonly number[],
    pointers: BigUint64Array,
  ): void {
    // CUDA_KERNEL_NODE_PARAMS: function, grid, block, shared bytes, then the parameters' addresses.
    this.#params.fill(0n)
    this.#params[0] = kernel
    this.#ints.set(shape, 2)
    this.#params[5] = this.#context.driver.addressOf(pointers)
    const before = this.#last.get(context) ?? null
    const node = context.handleOf(
      'cuGraphAddKernelNode_v2',
      this.#graph,
      before,
      before?.length ?? 0,
      this.#params,
    )
    this.#last.set(context, BigUint64Array.of(node))
    this.#nodes++
  }

  /** What these GPUs are given from now on runs behind what any of them has been given. */
  meet(contexts: readonly CudaContext[]): void {
    const all = new Set(contexts.flatMap((context) => [...(this.#last.get(context) ?? [])]))
    if (all.size === 0) return
    for (const context of contexts) this.#last.set(context, BigUint64Array.from(all))
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

/** Takes part in the recording of steps. */
export interface Recorder {
  beginRecording(recording: StepRecording): void
  /** Everything was launched; launches that wait to become one with others wait no longer. */
  endRecording(): void
  /** The step failed half-way. */
  dropRecording(): void
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

  /**
   * Runs the step recorded under `key`, or `body`, whose launches on `members` are recorded. Gives what
   * `body` gave.
   */
  run<T>(key: string, members: readonly Recorder[], body: () => T): T {
    const record = this.#records.get(key)
    if (record !== undefined) {
      this.#replay(key, record)
      // What this key's own body returned when it was recorded.
      return record.result as T
    }
    const recording = new StepRecording(this.#context)
    for (const member of members) member.beginRecording(recording)
    try {
      const result = body()
      for (const member of members) member.endRecording()
      this.#keep(key, recording, result)
      return result
    } catch (error) {
      for (const member of members) member.dropRecording()
      recording.abandon()
      if (!this.#context.failed) recording.finish()
      throw error
    }
  }

  #replay(key: string, record: RecordedStep): void {
    this.#context.call('cuGraphLaunch', record.graph, this.#context.stream)
    this.#records.delete(key)
    this.#records.set(key, record)
    this.#replays++
  }

  #keep(key: string, recording: StepRecording, result: unknown): void {
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
    // The driver keeps a graph that is still running until it has ended; a lost GPU takes its own along.
    if (!this.#context.failed) this.#context.call('cuGraphExecDestroy', record.graph)
  }
}
