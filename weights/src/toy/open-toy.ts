import { openCheckpoint, type Checkpoint } from '../checkpoint.ts'
import { publish } from '../publish.ts'
import { openReleased } from '../released.ts'
import { MemoryStore } from '../store/memory.ts'
import { toyModelId, writeToy } from './files.ts'

/** The toy checkpoint, made, published and opened in memory: under a second, no files. */
export async function openToyCheckpoint(): Promise<Checkpoint> {
  const store = new MemoryStore()
  await writeToy(store)
  await publish(await openReleased(store), store, { modelId: toyModelId })
  return openCheckpoint(store)
}
