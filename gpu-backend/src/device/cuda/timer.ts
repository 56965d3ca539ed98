import type { CudaContext } from './context.ts'

/** `CU_EVENT_DEFAULT`: with timing. */
const timingFlags = 0

/** What a GPU takes for work in its stream, by its own clock. */
export class GpuTimer {
  readonly #context: CudaContext
  readonly #begin: bigint
  readonly #end: bigint

  constructor(context: CudaContext) {
    this.#context = context
    this.#begin = context.handleOf('cuEventCreate', timingFlags)
    this.#end = context.handleOf('cuEventCreate', timingFlags)
  }

  /** Milliseconds between the first and the last of what `work` launches. */
  measure(work: () => void): number {
    this.#context.call('cuEventRecord', this.#begin, this.#context.stream)
    work()
    this.#context.call('cuEventRecord', this.#end, this.#context.stream)
    this.#context.call('cuEventSynchronize', this.#end)
    const milliseconds = new Float32Array(1)
    this.#context.call('cuEventElapsedTime', milliseconds, this.#begin, this.#end)
    return milliseconds[0] ?? 0
  }

  close(): void {
    this.#context.call('cuEventDestroy_v2', this.#begin)
    this.#context.call('cuEventDestroy_v2', this.#end)
  }
}
