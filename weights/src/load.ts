import { strict as assert } from 'node:assert'
import { hash } from 'node:crypto'
import { TensorAssembler } from './assembler.ts'
import { CheckpointError } from './checkpoint-error.ts'
import { eachLimited } from './each-limited.ts'
import type { ModelConfig } from './layout/config.ts'
import { checkTensorValues } from './layout/values.ts'
import { planReads, type ReadRange } from './load-plan.ts'
import type { TensorLocation } from './manifest.ts'
import { StoreError, type Store } from './store/store.ts'

/** What tensors are loaded from: an open checkpoint, with digests or (as released) without. */
export interface TensorSource<T extends TensorLocation> {
  readonly location: string
  readonly store: Store
  readonly config: ModelConfig
  readonly tensors: ReadonlyMap<string, T>
}

export interface LoadOptions<T extends TensorLocation> {
  /** Which tensors; all of them if absent. A name the checkpoint lacks is refused. */
  readonly names?: ReadonlySet<string> | ((name: string) => boolean)
  /**
   * Receives each tensor once, complete and verified, in no particular order. The bytes are the
   * whole of their own ArrayBuffer and the receiver's to keep. A promise holds back further reads.
   */
  readonly onTensor: (tensor: T, bytes: Uint8Array<ArrayBuffer>) => void | Promise<void>
  /** Reads in flight. 4 of 16 MiB keep one Node thread busy; more only cost memory. */
  readonly concurrency?: number
  /** Largest single read. */
  readonly rangeBytes?: number
  readonly signal?: AbortSignal
  /** Bytes of tensors delivered, of those to deliver. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
}

export interface LoadReport {
  readonly tensorCount: number
  readonly tensorBytes: number
  readonly rangeCount: number
  /** Tensors whose source has no digest for them (a checkpoint as released). */
  readonly unverifiedCount: number
}

/**
 * Reads tensors, checks each against its SHA-256 and its value rules, and hands it over. On the
 * first failure the remaining reads are aborted, nothing more is delivered, and the failure is
 * thrown once all of them have stopped: `CheckpointError` names the tensor and its shard.
 */
export async function loadTensors<T extends TensorLocation>(
  source: TensorSource<T>,
  options: LoadOptions<T>,
): Promise<LoadReport> {
  const { concurrency = 4, rangeBytes = 16 * 2 ** 20 } = options
  assert(Number.isSafeInteger(concurrency) && concurrency > 0, 'concurrency is a positive count')
  assert(Number.isSafeInteger(rangeBytes) && rangeBytes > 0, 'rangeBytes is a positive count')
  const tensors = selectTensors(source, options.names)
  const ranges = planReads(tensors, rangeBytes)
  const load = new Load(source, options, tensors)
  await load.run(ranges, concurrency)
  return {
    tensorCount: tensors.length,
    tensorBytes: load.totalBytes,
    rangeCount: ranges.length,
    unverifiedCount: tensors.filter((tensor) => !hasDigest(tensor)).length,
  }
}

function selectTensors<T extends TensorLocation>(
  source: TensorSource<T>,
  names: LoadOptions<T>['names'],
): readonly T[] {
  if (names === undefined) return [...source.tensors.values()]
  if (typeof names === 'function') {
    return [...source.tensors.values()].filter((tensor) => names(tensor.name))
  }
  return [...names].map((name) => requireTensor(source, name))
}

/** The tensor's entry; a name the checkpoint lacks is an error that says so. */
export function requireTensor<T extends TensorLocation>(
  source: Pick<TensorSource<T>, 'location' | 'tensors'>,
  name: string,
): T {
  const tensor = source.tensors.get(name)
  if (tensor !== undefined) return tensor
  throw new CheckpointError('tensor_missing', name, `${source.location} has no tensor ${name}`)
}

function hasDigest<T extends TensorLocation>(tensor: T): tensor is T & { readonly sha256: string } {
  return 'sha256' in tensor && typeof tensor.sha256 === 'string'
}

/** One call of `loadTensors`. */
class Load<T extends TensorLocation> {
  readonly totalBytes: number
  readonly #source: TensorSource<T>
  readonly #options: LoadOptions<T>
  readonly #assembler = new TensorAssembler<T>()
  #doneBytes = 0

  constructor(source: TensorSource<T>, options: LoadOptions<T>, tensors: readonly T[]) {
    this.#source = source
    this.#options = options
    this.totalBytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)
  }

  async run(ranges: readonly ReadRange<T>[], limit: number): Promise<void> {
    const run = { items: ranges, limit, signal: this.#options.signal }
    await eachLimited(run, (range, signal) => this.#readRange(range, signal))
    assert(this.#doneBytes === this.totalBytes, 'every tensor was delivered')
  }

  async #readRange(range: ReadRange<T>, signal: AbortSignal): Promise<void> {
    const { file, offset, length } = range
    const read = await this.#source.store.getRange(file, { offset, length }, { signal })
    assert(read.length === length, 'a store returns exactly the range asked for')
    for (const { tensor, bytes } of this.#assembler.take(range, read)) {
      verifyTensor(tensor, bytes, this.#source)
      if (signal.aborted) {
        throw new StoreError('aborted', file, `loading stopped before ${tensor.name}`)
      }
      await this.#options.onTensor(tensor, bytes)
      this.#doneBytes += bytes.length
      this.#options.onProgress?.(this.#doneBytes, this.totalBytes)
    }
  }
}

/** Digest first: impossible values in bytes that are not the right ones would mislead. */
function verifyTensor<T extends TensorLocation>(
  tensor: T,
  bytes: Uint8Array,
  source: Pick<TensorSource<T>, 'location' | 'config'>,
): void {
  if (hasDigest(tensor) && hash('sha256', bytes, 'hex') !== tensor.sha256) {
    throw new CheckpointError(
      'tensor_digest',
      tensor.name,
      `${tensor.name} in ${tensor.file} of ${source.location} does not have the bytes its ` +
        'manifest promises; fetch or publish that file again',
    )
  }
  refuseImpossibleValues(tensor, bytes, source)
}

/** Throws `CheckpointError` if the tensor has values that no sound checkpoint has. */
export function refuseImpossibleValues(
  tensor: TensorLocation,
  bytes: Uint8Array,
  source: { readonly location: string; readonly config: ModelConfig },
): void {
  const fault = checkTensorValues(tensor, bytes, source.config)
  if (fault === null) return
  const where = `${tensor.name} in ${tensor.file} of ${source.location}`
  throw new CheckpointError('tensor_value', tensor.name, `${where} ${fault}`)
}
