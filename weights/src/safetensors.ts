import { CheckpointError } from './checkpoint-error.ts'
import { dtypeBytes, type TensorDtype } from './layout/inventory.ts'
import { objectEntries, parseJson } from './strict-json.ts'

/** Longest header read; the format's own ceiling. */
export const headerBytesMax = 100_000_000
/** The length field in front of the header. */
export const prefixBytes = 8

const tensorNameMax = 256
const dimensionsMax = 8

/** One tensor of one file. `offset` counts from the start of the file. */
export interface SafetensorsEntry {
  readonly name: string
  readonly dtype: TensorDtype
  readonly shape: readonly number[]
  readonly offset: number
  readonly bytes: number
}

/**
 * Reads the length field (the file's first eight bytes) and gives the header's length in bytes,
 * refusing one that the file of `fileBytes` cannot hold.
 */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (prefix.length !== prefixBytes || fileBytes < prefixBytes) {
    throw invalid(file, `is too short for a safetensors file (${fileBytes} bytes)`)
  }
  const view = new DataView(prefix.buffer, prefix.byteOffset, prefixBytes)
  const length = view.getBigUint64(0, true)
  if (length > BigInt(headerBytesMax)) {
    throw invalid(file, `announces a header of ${length} bytes; the limit is ${headerBytesMax}`)
  }
  if (length < 2n || length > BigInt(fileBytes - prefixBytes)) {
    throw invalid(file, `announces a header of ${length} bytes in a file of ${fileBytes}`)
  }
  return Number(length)
}

/**
 * Reads a header (the bytes after the length field) and checks that its tensors cover the file of
 * `fileBytes` exactly: in order, without gap or overlap. Gives the tensors by offset.
 */
export function parseHeader(
  header: Uint8Array,
  fileBytes: number,
  file: string,
): readonly SafetensorsEntry[] {
  if (header[0] !== 0x7b) throw invalid(file, 'has a header that does not begin with {')
  const dataStart = prefixBytes + header.length
  const entries: SafetensorsEntry[] = []
  for (const [name, value] of objectEntries(parseJson(header, file)) ?? []) {
    if (name === '__metadata__') checkMetadata(value, file)
    else entries.push(parseEntry(name, value, { dataStart, file }))
  }
  entries.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let end = dataStart
  for (const entry of entries) {
    if (entry.offset !== end) {
      const what = entry.offset < end ? 'overlaps the tensor before it' : 'leaves a gap before it'
      throw invalid(file, `: ${entry.name} ${what} (offset ${entry.offset}, expected ${end})`)
    }
    end += entry.bytes
  }
  if (end !== fileBytes) {
    throw new CheckpointError(
      'file_size',
      file,
      `${file} is ${fileBytes} bytes long, but its header describes ${end}; fetch the file again`,
    )
  }
  return entries
}

/** Free text about the file; of no use here, but its shape is part of the format. */
function checkMetadata(value: unknown, file: string): void {
  const entries = objectEntries(value)
  if (entries === null || entries.some(([, text]) => typeof text !== 'string')) {
    throw invalid(file, 'has a __metadata__ that is not a map of strings')
  }
}

function parseEntry(
  name: string,
  value: unknown,
  { dataStart, file }: { dataStart: number; file: string },
): SafetensorsEntry {
  checkTensorName(name, file)
  const fields = new Map(objectEntries(value))
  const extra = [...fields.keys()].find((key) => !entryKeys.has(key))
  if (fields.size !== entryKeys.size || extra !== undefined) {
    throw invalid(file, `: ${name} does not consist of dtype, shape and data_offsets`)
  }
  const dtype = fields.get('dtype')
  if (typeof dtype !== 'string' || !isTensorDtype(dtype)) {
    throw invalid(file, `: ${name} has the unknown dtype ${JSON.stringify(dtype)}`)
  }
  const shape = lengths(fields.get('shape'))
  if (shape === null || shape.length > dimensionsMax) {
    throw invalid(file, `: ${name} has an impossible shape`)
  }
  const offsets = lengths(fields.get('data_offsets'))
  const [begin, end] = offsets ?? []
  if (begin === undefined || end === undefined || offsets?.length !== 2 || begin > end) {
    throw invalid(file, `: ${name} has impossible data_offsets`)
  }
  const expected = boundedProduct([dtypeBytes[dtype], ...shape])
  if (expected !== end - begin) {
    throw invalid(
      file,
      `: ${name} is ${dtype} [${shape.join(', ')}], which is not the ${end - begin} bytes of its range`,
    )
  }
  return { name, dtype, shape, offset: dataStart + begin, bytes: end - begin }
}

const entryKeys: ReadonlySet<string> = new Set(['dtype', 'shape', 'data_offsets'])

export function isTensorDtype(text: string): text is TensorDtype {
  return Object.hasOwn(dtypeBytes, text)
}

/**
 * Tensor names end up as keys, in paths of messages and in logs: letters, digits, dot, dash and
 * underscore, and nothing that means something to an object (`__proto__`).
 */
export function isTensorName(name: string): boolean {
  return name.length <= tensorNameMax && /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)
}

function checkTensorName(name: string, file: string): void {
  if (isTensorName(name)) return
  throw invalid(file, `has a tensor with the unusable name ${JSON.stringify(name.slice(0, 80))}`)
}

/** An array of lengths (non-negative safe integers), or null. */
function lengths(value: unknown): number[] | null {
  if (!Array.isArray(value)) return null
  const numbers: number[] = []
  for (const item of value as unknown[]) {
    if (typeof item !== 'number' || !Number.isSafeInteger(item) || item < 0) return null
    numbers.push(item)
  }
  return numbers
}

/** The product, or null beyond 2^53 (each partial product is checked, so nothing wraps round). */
function boundedProduct(factors: readonly number[]): number | null {
  if (factors.includes(0)) return 0
  let product = 1
  for (const factor of factors) {
    product *= factor
    if (!Number.isSafeInteger(product)) return null
  }
  return product
}

function invalid(file: string, why: string): CheckpointError {
  return new CheckpointError(
    'header_invalid',
    file,
    `${file}${why.startsWith(':') ? '' : ' '}${why}`,
  )
}

export interface TensorData {
  readonly name: string
  readonly dtype: TensorDtype
  readonly shape: readonly number[]
  readonly data: Uint8Array
}

/** A whole safetensors file, tensors in the order given, header padded to 8 bytes with spaces. */
export function writeSafetensors(tensors: readonly TensorData[]): Uint8Array {
  let end = 0
  const entries = tensors.map(({ name, dtype, shape, data }) => {
    const begin = end
    end += data.length
    return [name, { dtype, shape, data_offsets: [begin, end] }] as const
  })
  const text = JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) })
  const unpadded = new TextEncoder().encode(text)
  const header = new Uint8Array(Math.ceil(unpadded.length / 8) * 8).fill(0x20)
  header.set(unpadded)
  const file = new Uint8Array(prefixBytes + header.length + end)
  new DataView(file.buffer).setBigUint64(0, BigInt(header.length), true)
  file.set(header, prefixBytes)
  let offset = prefixBytes + header.length
  for (const { data } of tensors) {
    file.set(data, offset)
    offset += data.length
  }
  return file
}
