import type { Device, DeviceFormats } from '../../device/device.ts'
import {
  byteLength,
  type DType,
  type LinearWeight,
  reshape,
  type Tensor,
  tensorBytes,
} from '../../device/tensor.ts'
import type { OpName } from '../registry.ts'
import {
  boundUsed,
  compareBits,
  compareBlocks,
  comparePicks,
  compareReals,
  type Choice,
  type Mismatch,
} from './compare.ts'
import { decodeValues, elementBytes, encodeValues } from './encoding.ts'
import { type Estimate, slice } from './estimate.ts'
import type { GeneratedWeight } from './generate.ts'
import { GuardedDevice, GuardError, rubbishWords } from './guarded-device.ts'
import { bfloat16Unit, float32Unit, type Numerics } from './numerics.ts'
import type { BlockFormat } from './oracle/formats.ts'
import { Random } from './random.ts'

/** One op on one set of inputs. The name carries every parameter, so that it can be run again alone. */
export interface OpCase {
  readonly op: OpName
  readonly name: string
  /** `real`: dimensions of Flash or Pro, slower; `toy`: everything else. */
  readonly size: 'toy' | 'real'
  /** Run only where the device keeps cached rows in compact form. */
  readonly compactRows?: boolean
  prepare(bench: Bench): PreparedCase
}

export interface PreparedCase {
  /** Calls the op's wrapper on the bench's device. */
  run(): void
  /** Compares every output with what the case worked out by itself. */
  check(): void
}

/** Values on the device, and the same values as the case sees them. */
export interface Input {
  readonly tensor: Tensor
  readonly values: Float64Array
}

/** A tensor the op writes; `before` is what stood there, null for rubbish. */
export interface Output {
  readonly name: string
  readonly tensor: Tensor
  readonly before: Uint8Array | null
}

/** The device did not do what the op says. `kind` says how that was seen. */
export class ConformanceError extends Error {
  readonly op: OpName
  readonly kind: 'mismatch' | 'guard' | 'input_changed' | 'unstable' | 'not_compared'

  constructor(op: OpName, kind: ConformanceError['kind'], message: string) {
    super(message)
    this.name = 'ConformanceError'
    this.op = op
    this.kind = kind
  }
}

/** Where a case puts its tensors and compares them. Everything is freed when the case ends. */
export class Bench {
  readonly device: GuardedDevice
  readonly formats: DeviceFormats
  readonly numerics: Numerics
  readonly random: Random
  /** The largest share of its bound that any value so far took. */
  boundUsed = 0
  readonly #subject: string
  readonly #prepareWeights: boolean
  readonly #op: OpName
  readonly #inputs: {
    readonly name: string
    readonly tensor: Tensor
    readonly bytes: Uint8Array
  }[] = []
  readonly #outputs: Output[] = []
  readonly #tensors: Tensor[] = []
  readonly #compared = new Set<Output>()

  constructor(
    opCase: OpCase,
    run: {
      readonly device: GuardedDevice
      readonly numerics: Numerics
      readonly seed: number
      readonly prepareWeights: boolean
    },
  ) {
    const { device, seed } = run
    this.device = device
    this.formats = device.formats
    this.numerics = run.numerics
    this.random = new Random(seed, `${opCase.op} ${opCase.name}`)
    this.#prepareWeights = run.prepareWeights
    this.#op = opCase.op
    this.#subject = `${device.name}: ${opCase.op}, ${opCase.name}, seed ${seed}`
  }

  /** An input that the op may not change. Values are rounded to `dtype` first. */
  input(name: string, dtype: DType, shape: readonly number[], values: ArrayLike<number>): Input {
    const bytes = encodeValues(dtype, values)
    const tensor = this.bytes(name, dtype, shape, bytes)
    return { tensor, values: decodeValues(dtype, bytes) }
  }

  activation(name: string, shape: readonly number[], values: ArrayLike<number>): Input {
    return this.input(name, this.formats.activations, shape, values)
  }

  f32(name: string, shape: readonly number[], values: ArrayLike<number>): Input {
    return this.input(name, 'f32', shape, values)
  }

  i32(name: string, shape: readonly number[], values: ArrayLike<number>): Tensor {
    return this.input(name, 'i32', shape, values).tensor
  }

  /** An input given as its bytes. */
  bytes(name: string, dtype: DType, shape: readonly number[], bytes: Uint8Array): Tensor {
    const tensor = this.#place(name, dtype, shape, bytes)
    this.#inputs.push({ name, tensor, bytes })
    return tensor
  }

  /**
   * A linear's weight. Devices may keep its bytes in another order, so they are not looked at again.
   * One whose rows are multiplied in `groups` parts is prepared as a stack of them, as loading does.
   */
  weight(name: string, { dtype, shape, codes, scales }: GeneratedWeight, groups = 1): LinearWeight {
    const scale =
      scales === null ? null : this.#place(`${name} scale`, 'e8m0', scales.shape, scales.bytes)
    const weight = this.#place(name, dtype, shape, codes)
    if (this.#prepareWeights) {
      const [rows = 0, ...width] = shape
      const stack = groups === 1 ? weight : reshape(weight, [groups, rows / groups, ...width])
      this.device.prepare({ weight: stack, scale })
    }
    return { weight, scale }
  }

  /** A tensor of rubbish that the op fills. */
  output(name: string, dtype: DType, shape: readonly number[]): Output {
    return this.#addOutput({ name, tensor: this.#place(name, dtype, shape, null), before: null })
  }

  outputActivation(name: string, shape: readonly number[]): Output {
    return this.output(name, this.formats.activations, shape)
  }

  /** A tensor that the op changes in place; `NaN` stands for rubbish. */
  changing(
    name: string,
    dtype: DType,
    shape: readonly number[],
    values: ArrayLike<number>,
  ): Output {
    return this.changingBytes(name, dtype, shape, encodeValues(dtype, values))
  }

  changingBytes(name: string, dtype: DType, shape: readonly number[], before: Uint8Array): Output {
    return this.#addOutput({ name, tensor: this.#place(name, dtype, shape, before), before })
  }

  /** What stands in an output now. */
  read({ tensor }: Output): Uint8Array {
    const bytes = new Uint8Array(tensorBytes(tensor))
    if (bytes.length > 0) this.device.read(tensor.buffer, tensor.byteOffset, bytes)
    return bytes
  }

  readValues(output: Output): Float64Array {
    return decodeValues(output.tensor.dtype, this.read(output))
  }

  expectBits(output: Output, expected: Uint8Array): void {
    const bytes = elementBytes(output.tensor.dtype)
    this.#note(output, compareBits(this.read(output), expected, bytes))
  }

  /** Exactly these values, as the output's dtype writes them down. */
  expectValues(output: Output, expected: ArrayLike<number>): void {
    this.expectBits(output, encodeValues(output.tensor.dtype, expected))
  }

  expectReals(output: Output, expected: Estimate): void {
    const storage = storageUnit(output.tensor.dtype)
    this.#note(output, this.#compareReals(this.readValues(output), expected, storage))
  }

  expectBlocks(output: Output, expected: Estimate, format: BlockFormat): void {
    this.#note(output, compareBlocks(this.readValues(output), expected, format))
  }

  /**
   * Rows of `of` elements whose first `plain` are rounded in blocks of `format` and the others not
   * at all; with null, none is.
   */
  expectRows(
    output: Output,
    expected: Estimate,
    row: { readonly plain: number; readonly of: number },
    format: BlockFormat | null,
  ): void {
    const got = this.readValues(output)
    for (let from = 0; from < got.length; from += row.of) {
      const to = from + row.of
      const rules = { at: from, plain: row.plain, format, compact: false }
      this.expectRow(output, got.subarray(from, to), slice(expected, from, to), rules)
    }
    this.#note(output, null)
  }

  /** One row of an output, given as values. In compact rows what is not rounded is bfloat16. */
  expectRow(
    output: Output,
    got: Float64Array,
    expected: Estimate,
    rules: {
      /** Flat index of the row's first element. */
      readonly at: number
      readonly plain: number
      readonly format: BlockFormat | null
      readonly compact: boolean
    },
  ): void {
    const { plain, format } = rules
    const storage = rules.compact ? bfloat16Unit : storageUnit(output.tensor.dtype)
    const compare = (from: number, to: number, blocks: BlockFormat | null): Mismatch | null => {
      const own = got.subarray(from, to)
      const part = slice(expected, from, to)
      if (blocks !== null) return compareBlocks(own, part, blocks)
      return this.#compareReals(own, part, storage)
    }
    const wrong = compare(0, plain, format)
    const behind = wrong ?? compare(plain, got.length, null)
    if (behind === null) return this.#note(output, null)
    const at = (behind.index ?? 0) + (wrong === null ? plain : 0)
    const why = `value ${at} of the row, ${behind.why}`
    // Compact rows have no index of values: theirs is that of the row.
    this.#note(output, { ...behind, index: rules.at + (rules.compact ? 0 : at), why })
  }

  /** Says that `output` is wrong, for comparisons of one's own. */
  refuse(output: Output, wrong: Mismatch): void {
    this.#note(output, wrong)
  }

  /** Every row of `width` elements but those written is as it was. */
  expectElsewhere(output: Output, written: ReadonlySet<number>, width: number): void {
    const rowBytes = byteLength(output.tensor.dtype, [width])
    const expected = output.before?.slice() ?? new Uint8Array()
    const now = this.read(output)
    for (const row of written) {
      expected.set(now.subarray(row * rowBytes, (row + 1) * rowBytes), row * rowBytes)
    }
    this.expectBits(output, expected)
  }

  /** Row `row` of an i32 output: picks, then −1 to the end. */
  expectPicks(output: Output, row: number, choice: Choice): readonly number[] {
    const width = output.tensor.shape[1] ?? 0
    const found = [...this.readValues(output).subarray(row * width, (row + 1) * width)]
    const end = found.findLastIndex((pick) => pick !== -1) + 1
    const picks = found.slice(0, end)
    const wrong = comparePicks(picks, choice)
    const at = row * width + (wrong?.index ?? 0)
    this.#note(output, wrong === null ? null : { ...wrong, index: at })
    return picks
  }

  /** After the run: inputs untouched, every output compared. */
  finish(): void {
    for (const { name, tensor, bytes } of this.#inputs) {
      const now = this.read({ name, tensor, before: null })
      const changed = compareBits(now, bytes, 1)
      if (changed === null) continue
      this.fail('input_changed', `byte ${changed.index} of input ${name} changed`)
    }
    const missed = this.#outputs.find((output) => !this.#compared.has(output))
    if (missed !== undefined) this.fail('not_compared', `nothing looked at ${missed.name}`)
  }

  outputBytes(): readonly Uint8Array[] {
    return this.#outputs.map((output) => this.read(output))
  }

  free(): void {
    for (const { buffer } of this.#tensors) this.device.free(buffer)
    this.#tensors.length = 0
  }

  fail(kind: ConformanceError['kind'], what: string): never {
    throw new ConformanceError(this.#op, kind, `${this.#subject}: ${what}`)
  }

  #compareReals(got: Float64Array, expected: Estimate, storage: number): Mismatch | null {
    const wrong = compareReals(got, expected, storage)
    if (wrong !== null) return wrong
    this.boundUsed = Math.max(this.boundUsed, boundUsed(got, expected, storage).used)
    return null
  }

  #note(output: Output, wrong: Mismatch | null): void {
    this.#compared.add(output)
    if (wrong === null) return
    const at = wrong.index === null ? '' : `[${indexIn(output.tensor.shape, wrong.index)}]`
    const where = `${output.name}${at}`
    this.fail('mismatch', `${where} is ${wrong.got}, expected ${wrong.expected} (${wrong.why})`)
  }

  #addOutput(output: Output): Output {
    this.#outputs.push(output)
    return output
  }

  #place(name: string, dtype: DType, shape: readonly number[], bytes: Uint8Array | null): Tensor {
    const size = byteLength(dtype, shape)
    // A tensor without elements still has a buffer: devices do not give out empty ones.
    const buffer = this.device.alloc(Math.max(size, 1), name)
    const tensor: Tensor = { buffer, byteOffset: 0, dtype, shape }
    this.#tensors.push(tensor)
    if (bytes !== null && size > 0) this.device.write(buffer, 0, bytes)
    return tensor
  }
}

/** Relative error of writing a value down in `dtype`. */
export function storageUnit(dtype: DType): number {
  return dtype === 'bf16' ? bfloat16Unit : float32Unit
}

/** Flat index → index by extent. */
function indexIn(shape: readonly number[], flat: number): string {
  const parts: number[] = []
  let rest = flat
  for (const extent of shape.toReversed()) {
    parts.unshift(rest % extent)
    rest = Math.floor(rest / extent)
  }
  return parts.join(', ')
}

/** A device, its arithmetic and the seed, on which any case can be run. */
export interface Subject {
  readonly device: Device
  readonly numerics: Numerics
  readonly seed: number
}

/**
 * Runs one case; throws `ConformanceError` for anything the device does wrong. A toy case runs
 * twice, over different rubbish and the second time with weights the device has prepared, and must
 * give the same bits: results depend on inputs alone. A real one runs as the model would.
 */
export function runCase(opCase: OpCase, subject: Subject): CaseResult {
  const prepared = runOnce(opCase, subject, { rubbish: rubbishWords[0], prepareWeights: true })
  const result = { boundUsed: prepared.boundUsed, opsRun: prepared.opsRun }
  if (opCase.size === 'real') return result
  const again = runOnce(opCase, subject, { rubbish: rubbishWords[1], prepareWeights: false })
  for (const [index, bytes] of prepared.outputs.entries()) {
    const moved = compareBits(again.outputs[index] ?? new Uint8Array(), bytes, 1)
    if (moved === null) continue
    prepared.fail('unstable', `output ${index} differs from run to run at byte ${moved.index}`)
  }
  return result
}

export interface CaseResult {
  /** The largest error in units of its bound; 0 where everything is compared exactly. */
  readonly boundUsed: number
  /** Ops that reached the device: none where there was nothing to do. */
  readonly opsRun: number
}

interface RunConditions {
  readonly rubbish: number
  readonly prepareWeights: boolean
}

interface RunResult extends CaseResult {
  readonly outputs: readonly Uint8Array[]
  fail(kind: ConformanceError['kind'], what: string): never
}

function runOnce(opCase: OpCase, subject: Subject, conditions: RunConditions): RunResult {
  const { numerics, seed } = subject
  const { rubbish, prepareWeights } = conditions
  const device = new GuardedDevice(subject.device, rubbish)
  const bench = new Bench(opCase, { device, numerics, seed, prepareWeights })
  try {
    const prepared = opCase.prepare(bench)
    prepared.run()
    device.synchronise()
    prepared.check()
    bench.finish()
    return {
      boundUsed: bench.boundUsed,
      opsRun: device.opsRun,
      outputs: bench.outputBytes(),
      fail: (kind, what) => bench.fail(kind, what),
    }
  } catch (error) {
    if (error instanceof GuardError) bench.fail('guard', error.message)
    throw error
  } finally {
    bench.free()
  }
}
