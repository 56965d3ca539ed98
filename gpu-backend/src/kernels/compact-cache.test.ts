import { describe, expect, it } from 'vitest'
import { CpuDevice } from '../device/cpu.ts'
import type { Device } from '../device/device.ts'
import { ReferenceDevice } from '../device/reference.ts'
import type { Tensor } from '../device/tensor.ts'
import { attention } from './attention/attention.ts'
import { pageTokens } from './batch.ts'
import { compress } from './compress/compress.ts'
import { indexSelect } from './index-select/index-select.ts'
import { mixedValues } from './native/testing/both-devices.ts'
import { nativeForTests } from './native/testing/native-addon.ts'
import {
  type CompactLayout,
  compactRowBytes,
  decodeRow,
  encodeRow,
  keyLayout,
  rowWidth,
} from './numerics/compact-rows.ts'
import { GuardedDevice } from './testing/guarded-device.ts'
import { type TestSegment, TestTensors } from './testing/test-tensors.ts'

// A cache in compact rows is the cache in plain rows, written down in fewer bytes: the ops that read
// and write it leave the same bits.

const native = await nativeForTests()

const devices: readonly (readonly [string, () => Device])[] = [
  ['reference', () => new ReferenceDevice()],
  ...('addon' in native
    ? (['portable', 'avx2', 'best'] as const).map(
        (isa) => [`cpu, ${isa}`, () => new CpuDevice(native.addon, { threads: 2, isa })] as const,
      )
    : []),
]

const slots = 3
const pagesEach = 4
const ratio = 4
const perPage = pageTokens / ratio
const ragged: readonly TestSegment[] = [
  { slot: 2, start: 0, length: 3 },
  { slot: 0, start: 90, length: 7 },
  { slot: 1, start: 1019, length: 1 },
]
/** Few enough rows for threads to share the keys of one. */
const single: readonly TestSegment[] = [{ slot: 1, start: 1019, length: 1 }]

function rowsOf(segments: readonly TestSegment[]): number {
  return segments.reduce((count, { length }) => count + length, 0)
}

type Form = 'plain' | 'compact'

/** The same rows in both forms: `plain` holds what `compact` stands for. */
interface BothForms {
  readonly plain: Float32Array
  readonly compact: Uint8Array
}

function bothForms(layout: CompactLayout, label: string, count: number): BothForms {
  const width = rowWidth(layout)
  const each = compactRowBytes(layout)
  const plain = mixedValues(7, label, count * width)
  const compact = new Uint8Array(count * each)
  for (let row = 0; row < count; row++) {
    const bytes = compact.subarray(row * each, (row + 1) * each)
    const values = plain.subarray(row * width, (row + 1) * width)
    encodeRow(layout, values, bytes)
    decodeRow(layout, bytes, values)
  }
  return { plain, compact }
}

function decodeAll(layout: CompactLayout, bytes: Uint8Array): number[] {
  const each = compactRowBytes(layout)
  const row = new Float32Array(rowWidth(layout))
  return Array.from({ length: bytes.length / each }, (_, i) => {
    decodeRow(layout, bytes.subarray(i * each, (i + 1) * each), row)
    return [...row]
  }).flat()
}

function place(
  on: TestTensors,
  rows: BothForms,
  layout: CompactLayout,
  extents: readonly number[],
  form: Form,
): Tensor {
  return form === 'compact'
    ? on.bytes('u8', [...extents, compactRowBytes(layout)], rows.compact)
    : on.f32([...extents, rowWidth(layout)], rows.plain)
}

function pageTable(on: TestTensors): Tensor {
  const pages = Array.from({ length: slots * pagesEach }, (_, i) => (i * 7) % (slots * pagesEach))
  return on.i32([slots, pagesEach], pages)
}

interface Attending {
  readonly head: number
  readonly entries: 'picked' | 'all'
  readonly segments: readonly TestSegment[]
}

function attending(on: TestTensors, form: Form, problem: Attending): Record<string, number[]> {
  const [heads, pairs, ring, topK] = [3, 32, 20, 6]
  const { head, segments } = problem
  const rowCount = rowsOf(segments)
  const layout = keyLayout(head, 2 * pairs)
  const extents = [slots * pagesEach, perPage]
  const entries = bothForms(layout, 'entries', slots * pagesEach * perPage)
  const window = place(on, bothForms(layout, 'window', slots * ring), layout, [slots, ring], form)
  const keys = bothForms(layout, 'keys', rowCount).plain
  const visible = segments.flatMap(({ start, length }) =>
    Array.from({ length }, (_, i) => Math.floor((start + i + 1) / ratio)),
  )
  const selected = visible.flatMap((count) =>
    Array.from({ length: topK }, (_, i) => (i < count ? i * Math.floor(count / topK) || i : -1)),
  )
  const output = on.empty('f32', [rowCount, heads, head])
  attention(on.device, {
    queries: on.f32([rowCount, heads, head], mixedValues(7, 'queries', rowCount * heads * head)),
    keys: on.f32([rowCount, head], keys),
    window,
    windowSize: 16,
    compressed: {
      entries: place(on, entries, layout, extents, form),
      ratio,
      selected: problem.entries === 'all' ? null : on.i32([rowCount, topK], selected),
    },
    sink: on.f32([heads], [0.5, -1, 2]),
    frequencies: on.f32([pairs], mixedValues(7, 'frequencies', pairs)),
    rows: on.rows(segments),
    pages: pageTable(on),
    scale: head ** -0.5,
    output,
  })
  const kept = on.read(window)
  return {
    output: on.read(output),
    window: form === 'compact' ? decodeAll(layout, Uint8Array.from(kept)) : kept,
  }
}

function pooling(on: TestTensors, form: Form, layout: CompactLayout): Record<string, number[]> {
  const width = rowWidth(layout)
  const [pairs, span, ring] = [32, 2, 12]
  const segments = ragged
  const rowCount = rowsOf(segments)
  const channels = span * width
  const raw = (label: string, count: number): Float32Array =>
    mixedValues(7, label, count * channels)
  const entries = place(
    on,
    bothForms(layout, 'before', slots * pagesEach * perPage),
    layout,
    [slots * pagesEach, perPage],
    form,
  )
  compress(on.device, {
    values: on.f32([rowCount, channels], raw('values', rowCount)),
    scores: on.f32([rowCount, channels], raw('scores', rowCount)),
    ape: on.f32([ratio, channels], raw('ape', ratio)),
    norm: on.f32([width], mixedValues(7, 'norm', width)),
    frequencies: on.f32([pairs], mixedValues(7, 'frequencies', pairs)),
    rows: on.rows(segments),
    pages: pageTable(on),
    valueRing: on.f32([slots, ring, channels], raw('value ring', slots * ring)),
    scoreRing: on.f32([slots, ring, channels], raw('score ring', slots * ring)),
    entries,
    ratio,
    span,
    use: layout.kind === 'key' ? 'keys' : 'index',
    quantise: true,
    eps: 1e-6,
  })
  const kept = on.read(entries)
  if (form === 'compact') return { entries: decodeAll(layout, Uint8Array.from(kept)) }
  // The rotated part is the one thing that compact rows keep less of.
  const each = compactRowBytes(layout)
  const rounded = new Uint8Array((kept.length / width) * each)
  for (let row = 0; row * width < kept.length; row++) {
    const values = Float32Array.from(kept.slice(row * width, (row + 1) * width))
    encodeRow(layout, values, rounded.subarray(row * each, (row + 1) * each))
  }
  return { entries: decodeAll(layout, rounded) }
}

function picking(on: TestTensors, form: Form): Record<string, number[]> {
  const [heads, head, topK] = [5, 128, 9]
  const segments = ragged
  const rowCount = rowsOf(segments)
  const layout: CompactLayout = { kind: 'index', width: head }
  const entries = bothForms(layout, 'index entries', slots * pagesEach * perPage)
  const queries = bothForms(layout, 'index queries', rowCount * heads).plain
  const selected = on.empty('i32', [rowCount, topK])
  indexSelect(on.device, {
    queries: on.f32([rowCount, heads, head], queries),
    weights: on.f32([rowCount, heads], mixedValues(7, 'weights', rowCount * heads)),
    scale: (heads * head) ** -0.5,
    entries: place(on, entries, layout, [slots * pagesEach, perPage], form),
    rows: on.rows(segments),
    pages: pageTable(on),
    ratio,
    selected,
  })
  return { selected: on.read(selected) }
}

describe.each(devices)('%s', (_, open) => {
  const device = open()
  if (!device.formats.compactRows) {
    it.skip('has no compact rows')
    return
  }

  function expectSame(run: (on: TestTensors, form: Form) => Record<string, number[]>): void {
    const on = (): TestTensors => new TestTensors(new GuardedDevice(device))
    const compact = run(on(), 'compact')
    for (const [name, expected] of Object.entries(run(on(), 'plain'))) {
      const found = compact[name] ?? []
      const wrong = expected.findIndex((value, i) => !Object.is(value, found[i]))
      expect(wrong, `${name}[${wrong}] is ${found[wrong]}, not ${expected[wrong]}`).toBe(-1)
    }
  }

  it.each([
    { head: 128, entries: 'picked', segments: ragged },
    { head: 512, entries: 'picked', segments: ragged },
    { head: 128, entries: 'all', segments: ragged },
    { head: 512, entries: 'all', segments: single },
  ] as const)('attends to $entries compact keys of $head as to plain ones', (problem) => {
    expectSame((on, form) => attending(on, form, problem))
  })

  it.each([
    ['keys', keyLayout(128, 64)],
    ['keys of 512', keyLayout(512, 64)],
    ['index keys', { kind: 'index', width: 128 }],
  ] as const)('pools into compact %s what it pools into plain ones', (__, layout) => {
    expectSame((on, form) => pooling(on, form, layout))
  })

  it('picks the same entries', () => expectSame(picking))

  it('refuses to pool what is not rounded into rows that are', () => {
    const on = new TestTensors(device)
    const rows = on.rows([])
    const none = on.f32([0, 256], [])
    const ring = on.f32([1, 8, 256], new Float32Array(8 * 256))
    const call = (): void =>
      compress(on.device, {
        values: none,
        scores: on.f32([0, 256], []),
        ape: on.f32([4, 256], new Float32Array(4 * 256)),
        norm: on.f32([128], new Float32Array(128)),
        frequencies: on.f32([32], new Float32Array(32)),
        rows,
        pages: on.i32([1, 1], [0]),
        valueRing: ring,
        scoreRing: on.f32([1, 8, 256], new Float32Array(8 * 256)),
        entries: on.empty('u8', [1, 64, 200]),
        ratio: 4,
        span: 2,
        use: 'keys',
        quantise: false,
        eps: 1e-6,
      })
    expect(call).toThrow('compress: compact entries hold values that are rounded')
  })
})
