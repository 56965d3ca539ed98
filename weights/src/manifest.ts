import { createHash } from 'node:crypto'
import { z } from 'zod'
import { CheckpointError } from './checkpoint-error.ts'
import { tensorBytes, type TensorDtype, type TensorSpec } from './layout/inventory.ts'
import { isTensorDtype, isTensorName } from './safetensors.ts'
import { isSafeKey } from './store/key.ts'
import { objectEntries, parseJson } from './strict-json.ts'

/** The file that makes a directory or prefix a checkpoint; published last. */
export const manifestFileName = 'sluice-manifest.json'
/** V4-Pro's takes 33 MB. */
export const manifestBytesMax = 256 * 2 ** 20

/** One file of the checkpoint as published. */
export interface ManifestFile {
  readonly name: string
  readonly sizeBytes: number
  /** Lower-case hexadecimal. */
  readonly sha256: string
}

/** Where a tensor lies: `bytes` bytes from `offset`, counted from the start of `file`. */
export interface TensorLocation extends TensorSpec {
  readonly file: string
  readonly offset: number
  readonly bytes: number
}

/** A tensor whose bytes are known. */
export interface ManifestTensor extends TensorLocation {
  /** Of the tensor's bytes alone, lower-case hexadecimal. */
  readonly sha256: string
}

/**
 * Texts a checkpoint was trained with. They differ between releases, so they are its data; a
 * request that needs an absent one is refused.
 */
export interface PromptConstants {
  /** In front of the tool schemas. */
  readonly toolsHead?: string
  /** After the tool schemas. */
  readonly toolsTail?: string
  /** Prefix of effort `max`. */
  readonly effortMax?: string
  /** Prefix of effort `high`, in the releases that have one. */
  readonly effortHigh?: string
  /** In front of the response schema. */
  readonly responseFormat?: string
}

export const promptConstantNames = [
  'toolsHead',
  'toolsTail',
  'effortMax',
  'effortHigh',
  'responseFormat',
] as const satisfies readonly (keyof PromptConstants)[]

/**
 * Which generation's prompt rules hold. `preview` (April 2026): only effort `max` adds text.
 * `0731` (July 2026 and later): `low` is the default, `high` and `max` have texts of their own.
 */
export type Release = 'preview' | '0731'

export interface Manifest {
  readonly formatVersion: 1
  /** The name it is served under. */
  readonly modelId: string
  readonly release: Release
  readonly configFile: string
  readonly tokenizerFile: string
  readonly promptConstants: PromptConstants
  /** Names the content (see `checkpointHash`), whatever it is called and however it is sharded. */
  readonly checkpointHash: string
  readonly files: readonly ManifestFile[]
  readonly tensors: ReadonlyMap<string, ManifestTensor>
}

const sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'is not a SHA-256 in lower-case hexadecimal')
const fileName = z.string().refine(isSafeKey, 'is not a usable file name')
const length = z.int().nonnegative()
const constant = z.string().max(1_000_000)

const manifestSchema = z.strictObject({
  formatVersion: z.literal(1),
  modelId: z.string().regex(/^[a-z0-9][a-z0-9._-]{0,127}$/, 'is not a usable model id'),
  release: z.enum(['preview', '0731']),
  configFile: fileName,
  tokenizerFile: fileName,
  promptConstants: z.strictObject({
    toolsHead: constant.optional(),
    toolsTail: constant.optional(),
    effortMax: constant.optional(),
    effortHigh: constant.optional(),
    responseFormat: constant.optional(),
  }),
  checkpointHash: sha256,
  files: z
    .array(z.strictObject({ name: fileName, sizeBytes: length, sha256 }))
    .min(1)
    .max(100_000),
  // One by one, so that a name such as `__proto__` is refused and not quietly dropped.
  tensors: z.unknown(),
})

const tensorSchema = z.strictObject({
  file: fileName,
  offset: length,
  bytes: length.positive(),
  dtype: z.string(),
  shape: z.array(length).max(8),
  sha256,
})

/** Reads and cross-checks a manifest. Throws `CheckpointError` naming the entry at fault. */
export function parseManifest(bytes: Uint8Array): Manifest {
  const parsed = manifestSchema.safeParse(parseJson(bytes, manifestFileName))
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    const path = issue?.path.join('.') ?? ''
    throw invalid(path, `${path} ${issue?.message ?? 'is not valid'}`)
  }
  const { tensors: rawTensors, promptConstants, ...rest } = parsed.data
  const files = new Map(rest.files.map((file) => [file.name, file]))
  if (files.size !== rest.files.length) throw invalid('files', 'files names one file twice')
  for (const role of ['configFile', 'tokenizerFile'] as const) {
    if (!files.has(rest[role])) throw invalid(role, `${role} ${rest[role]} is not among the files`)
  }
  const entries = objectEntries(rawTensors)
  if (entries === null) throw invalid('tensors', 'tensors is not an object')
  const tensors = new Map(entries.map(([name, raw]) => [name, parseTensor(name, raw, files)]))
  refuseOverlaps(tensors)
  const manifest = { ...rest, promptConstants: presentConstants(promptConstants), tensors }
  if (checkpointHash(manifest) !== rest.checkpointHash) {
    throw invalid('checkpointHash', 'checkpointHash does not match the content; publish it again')
  }
  return manifest
}

function parseTensor(
  name: string,
  raw: unknown,
  files: ReadonlyMap<string, ManifestFile>,
): ManifestTensor {
  if (!isTensorName(name)) {
    throw invalid(name, `tensors has the unusable name ${JSON.stringify(name.slice(0, 80))}`)
  }
  const parsed = tensorSchema.safeParse(raw)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw invalid(name, `${name}: ${issue?.path.join('.') ?? ''} ${issue?.message ?? 'not valid'}`)
  }
  const { dtype, ...rest } = parsed.data
  if (!isTensorDtype(dtype)) throw invalid(name, `${name} has the unknown dtype ${dtype}`)
  const tensor: ManifestTensor = { name, dtype, ...rest }
  checkExtent(tensor, files.get(tensor.file))
  return tensor
}

function checkExtent(tensor: ManifestTensor, file: ManifestFile | undefined): void {
  const { name, bytes } = tensor
  if (file === undefined) throw invalid(name, `${name} is in ${tensor.file}, which is not listed`)
  if (!isExactSize(tensor))
    throw invalid(name, `${name} has ${bytes} bytes, which is not its shape`)
  // A subtraction, because offset + bytes may pass 2^53.
  if (bytes > file.sizeBytes || tensor.offset > file.sizeBytes - bytes) {
    throw invalid(name, `${name} ends beyond the end of ${tensor.file}`)
  }
}

function isExactSize(tensor: {
  readonly dtype: TensorDtype
  readonly shape: readonly number[]
  readonly bytes: number
}): boolean {
  // Below 2^53 the product is exact; above, floating point is near enough to differ from `bytes`.
  const product = tensor.shape.reduce((total, extent) => total * extent, 1)
  return product <= Number.MAX_SAFE_INTEGER / 8 && tensorBytes(tensor) === tensor.bytes
}

function refuseOverlaps(tensors: ReadonlyMap<string, ManifestTensor>): void {
  let previous: ManifestTensor | undefined
  for (const tensor of [...tensors.values()].sort(byPlace)) {
    if (previous?.file === tensor.file && tensor.offset < previous.offset + previous.bytes) {
      throw invalid(tensor.name, `${tensor.name} overlaps ${previous.name} in ${tensor.file}`)
    }
    previous = tensor
  }
}

/** By file, then by offset: the order a disk or an object store likes to be read in. */
export function byPlace(a: TensorLocation, b: TensorLocation): number {
  if (a.file !== b.file) return a.file < b.file ? -1 : 1
  return a.offset - b.offset
}

/** Without the `undefined`s zod leaves, which `exactOptionalPropertyTypes` does not count as absent. */
function presentConstants(raw: {
  readonly [Name in keyof PromptConstants]?: string | undefined
}): PromptConstants {
  const present: { -readonly [Name in keyof PromptConstants]: string } = {}
  for (const name of promptConstantNames) {
    const text = raw[name]
    if (text !== undefined) present[name] = text
  }
  return present
}

type HashedContent = Pick<
  Manifest,
  'release' | 'configFile' | 'tokenizerFile' | 'promptConstants' | 'files' | 'tensors'
>

/**
 * SHA-256 over everything that decides what the model answers: config, tokenizer, release, prompt
 * constants, and each tensor's dtype, shape and bytes, in the order of their names. Model id, file
 * names and sharding stay out, so a re-sharded copy keeps its hash.
 */
export function checkpointHash(content: HashedContent): string {
  const hash = createHash('sha256')
  const line = (...values: readonly unknown[]): void => {
    hash.update(`${JSON.stringify(values)}\n`)
  }
  const digestOf = (name: string): string | undefined =>
    content.files.find((file) => file.name === name)?.sha256
  line('sluice-checkpoint', 1, content.release)
  line('config', digestOf(content.configFile))
  line('tokenizer', digestOf(content.tokenizerFile))
  for (const name of promptConstantNames) line(name, content.promptConstants[name] ?? null)
  const names = [...content.tensors.keys()].sort()
  for (const name of names) {
    const tensor = content.tensors.get(name)
    line(name, tensor?.dtype, tensor?.shape, tensor?.sha256)
  }
  return hash.digest('hex')
}

/** The manifest as it is stored; `parseManifest` gives it back. */
export function serializeManifest(manifest: Manifest): Uint8Array {
  const { tensors, ...rest } = manifest
  const listed = [...tensors.values()].map(
    ({ name, file, offset, bytes, dtype, shape, sha256 }) => [
      name,
      { file, offset, bytes, dtype, shape, sha256 },
    ],
  )
  const json = JSON.stringify({ ...rest, tensors: Object.fromEntries(listed) as unknown })
  return new TextEncoder().encode(`${json}\n`)
}

function invalid(subject: string, why: string): CheckpointError {
  return new CheckpointError('manifest_invalid', subject, `${manifestFileName}: ${why}`)
}
