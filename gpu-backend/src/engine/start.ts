import { Worker } from 'node:worker_threads'
import { EngineClient, type EngineStatus } from './client.ts'
import type { EngineSettings } from './protocol.ts'

export interface StartedEngine {
  readonly client: EngineClient
  /** Resolves when the model is on the device; rejects when the thread ends before. */
  readonly ready: Promise<void>
  /** Resolves with the reason if the thread ends without having been told to. */
  readonly ended: Promise<Error>
  /** Ends the thread wherever it is. */
  terminate(): Promise<void>
}

/** Starts the engine's thread, which begins to load the model at once. */
export function startEngine(
  settings: EngineSettings,
  onNote: (note: string) => void = () => undefined,
): StartedEngine {
  const worker = new Worker(new URL('worker.ts', import.meta.url), { workerData: settings })
  const ready = Promise.withResolvers<void>()
  const ended = Promise.withResolvers<Error>()
  let terminating = false
  const onStatus = (status: EngineStatus): void => {
    if (status.phase === 'ready') ready.resolve()
    if (status.phase !== 'dead') return
    ready.reject(status.error)
    if (!terminating) ended.resolve(status.error)
  }
  // Whoever waits for it hears of a failure; nobody has to.
  ready.promise.catch(() => undefined)
  return {
    client: new EngineClient({ thread: worker, limits: settings.limits, onStatus, onNote }),
    ready: ready.promise,
    ended: ended.promise,
    terminate: async () => {
      terminating = true
      await worker.terminate()
    },
  }
}
