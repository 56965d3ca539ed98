import { beforeAll, describe, expect, it } from 'vitest'
import type { Launch } from '../../device/cuda/launch.ts'
import { ensureSimtProgram, type NativeBuild, type Sanitizer } from '../native/build.ts'
import { allCases, opNames } from '../testing/all-cases.ts'
import { type OpCase, runCase } from '../testing/case.ts'
import { linearCases } from '../linear/cases.ts'
import { cudaNumerics, wgmmaNumerics } from '../testing/numerics.ts'
import { tileRingBytes } from './tile-ring.ts'
import { type RunOrder, SimtDevice, tileMap, UsedBuffers } from './testing/simt-device.ts'

// The CUDA kernels on the host under the sanitizers, with threads in orders of their own; what they
// compute is the op suite's to judge too, on the fake driver. KERNEL_SANITIZE=all runs every toy case.

/** A build with a sanitizer takes half a minute of one core. */
const timeoutMs = 600_000
const casesOfOp = process.env['KERNEL_SANITIZE'] === 'all' ? Infinity : 2

interface Variant {
  readonly label: string
  readonly sanitizer: Sanitizer | null
  readonly order: RunOrder
}

const variants: readonly Variant[] = [
  { label: 'in reverse order', sanitizer: null, order: 'reverse' },
  { label: 'under the address sanitizer', sanitizer: 'address', order: 'random' },
  { label: 'under the thread sanitizer', sanitizer: 'thread', order: 'random' },
]

const builds = new Map<Sanitizer | null, Promise<NativeBuild>>()

async function programOf(sanitizer: Sanitizer | null): Promise<string> {
  const onProgress = (line: string): void => console.log(line)
  const options = sanitizer === null ? { onProgress } : { sanitizer, onProgress }
  const building = builds.get(sanitizer) ?? ensureSimtProgram(options)
  builds.set(sanitizer, building)
  const built = await building
  if ('reason' in built) throw new Error(built.reason)
  return built.path
}

/** Some of an op’s toy cases, from all over its list. */
function chosenCases(cases: readonly OpCase[]): readonly OpCase[] {
  const toy = cases.filter(({ size }) => size === 'toy')
  if (toy.length <= casesOfOp) return toy
  const each = toy.length / casesOfOp
  return Array.from({ length: casesOfOp }, (_, i) => toy[Math.floor((i + 0.5) * each)]).filter(
    (opCase) => opCase !== undefined,
  )
}

describe.each(variants)('kernels $label', ({ sanitizer, order }) => {
  let program = ''
  beforeAll(async () => {
    program = await programOf(sanitizer)
  }, timeoutMs)

  it.each(opNames)(
    '%s',
    (op) => {
      for (const opCase of chosenCases(allCases[op])) {
        const device = new SimtDevice(program, order)
        runCase(opCase, { device, numerics: cudaNumerics, seed: 1 })
      }
    },
    timeoutMs,
  )
})

describe.each(variants)('products by wgmma $label', ({ sanitizer, order }) => {
  it(
    'linear',
    async () => {
      const device = new SimtDevice(await programOf(sanitizer), order, 'wgmma')
      for (const opCase of linearCases.filter(({ name }) => name.startsWith('rows=130 '))) {
        runCase(opCase, { device, numerics: wgmmaNumerics, seed: 1 })
      }
      expect(device.launched).toContain('linear_wgmma')
    },
    timeoutMs,
  )
})

/** By the numbers of `testing/faults.cu`. */
const faults = {
  none: 0,
  missingBarrier: 1,
  outOfBounds: 2,
  behindShared: 3,
  wrongLane: 4,
  laneNotInMask: 5,
  barrierNotReached: 6,
} as const

const threads = 128
const sharedBytes = 4 * (threads + 4)
const values = Float32Array.from({ length: threads }, (_, i) => i % 7)
const right = [values.reduce((sum, value) => sum + value, 0), ...values.slice(1)]

/** What the kernel leaves: the sum, then the values one place on. */
function runPlanted(program: string, fault: keyof typeof faults, order: RunOrder): number[] {
  const device = new SimtDevice(program, order)
  const [input, output] = [device.alloc(4 * threads), device.alloc(4 * threads)]
  device.write(input, 0, new Uint8Array(values.buffer))
  const used = new UsedBuffers()
  const struct = new DataView(new ArrayBuffer(24))
  struct.setBigUint64(0, used.pointer(input), true)
  struct.setBigUint64(8, used.pointer(output), true)
  struct.setInt32(16, threads, true)
  struct.setInt32(20, faults[fault], true)
  const launch: Launch = {
    kernel: 'planted_fault',
    grid: [1, 1, 1],
    block: [threads, 1, 1],
    sharedBytes,
    args: [{ as: 'struct', value: new Uint8Array(struct.buffer) }],
  }
  device.launch([launch], used)
  const bytes = new Uint8Array(4 * threads)
  device.read(output, 0, bytes)
  return [...new Float32Array(bytes.buffer)]
}

describe('the host build', () => {
  const orders = ['forward', 'reverse', 'random'] as const

  it.each(variants)(
    'finds nothing wrong with the right kernel, $label',
    async ({ sanitizer }) => {
      const program = await programOf(sanitizer)
      for (const order of orders) expect(runPlanted(program, 'none', order)).toEqual(right)
    },
    timeoutMs,
  )

  it(
    'shows a missing barrier: by value in the order of the threads, as a race in all',
    async () => {
      const plain = await programOf(null)
      expect(runPlanted(plain, 'missingBarrier', 'forward')[0]).toBeNaN()
      const watched = await programOf('thread')
      for (const order of orders) {
        expect(() => runPlanted(watched, 'missingBarrier', order)).toThrow(/data race/)
      }
    },
    timeoutMs,
  )

  it(
    'shows a read and a write out of bounds',
    async () => {
      const watched = await programOf('address')
      expect(() => runPlanted(watched, 'outOfBounds', 'forward')).toThrow(/heap-buffer-overflow/)
      expect(() => runPlanted(watched, 'behindShared', 'forward')).toThrow(/heap-buffer-overflow/)
      const plain = await programOf(null)
      expect(() => runPlanted(plain, 'behindShared', 'forward')).toThrow(
        /a block wrote behind its shared memory/,
      )
    },
    timeoutMs,
  )

  it(
    'shows the wrong lane of a shuffle, and a lane that takes no part',
    async () => {
      const plain = await programOf(null)
      expect(runPlanted(plain, 'wrongLane', 'forward')[0]).not.toBe(right[0])
      expect(runPlanted(plain, 'laneNotInMask', 'forward')[0]).toBeNaN()
    },
    timeoutMs,
  )

  it(
    'shows a barrier that a thread does not reach',
    async () => {
      const plain = await programOf(null)
      expect(() => runPlanted(plain, 'barrierNotReached', 'forward')).toThrow(
        /lanes of a warp did not come|threads ended while others wait/,
      )
    },
    timeoutMs,
  )
})

/** By the numbers of `testing/product-faults.cu`. */
const productFaults = {
  none: 0,
  notFenced: 1,
  notAwaited: 2,
  touched: 3,
  wrongSwizzle: 4,
  phaseNotFlipped: 5,
  barriersNotKnown: 6,
  noMeeting: 7,
  notEmptied: 8,
  releasedEarly: 9,
  neverReleased: 10,
  bytesMissing: 11,
  laneMissing: 12,
} as const

const [productRows, productOutputs, productUnits, unitBytes] = [64, 128, 5, 128]
const productWidth = productUnits * unitBytes
/** e4m3 codes of whole numbers, whose sums lose nothing. */
const wholeCodes = [0x00, 0x38, 0x40, 0xb8, 0xc0]
const wholeValues = [0, 1, 2, -1, -2]
const pickA = (row: number, i: number): number => (row * row + 3 * i + ((i * row) >> 3)) % 5
const pickB = (row: number, i: number): number => (2 * row + i * i + ((i + row) >> 4)) % 5

function productOf(program: string, fault: keyof typeof productFaults): number[] {
  const device = new SimtDevice(program, 'forward')
  const used = new UsedBuffers()
  const matrix = (rows: number, pick: typeof pickA): Uint8Array => {
    const bytes = Uint8Array.from(
      { length: rows * productWidth },
      (_, at) => wholeCodes[pick(Math.floor(at / productWidth), at % productWidth)] ?? 0,
    )
    const buffer = device.alloc(bytes.length)
    device.write(buffer, 0, bytes)
    return tileMap({ address: used.pointer(buffer), rows, columns: productWidth, tileRows: 128 })
  }
  const output = device.alloc(4 * productRows * productOutputs)
  const struct = new Uint8Array(320)
  struct.set(matrix(productRows, pickA), 0)
  struct.set(matrix(productOutputs, pickB), 128)
  const view = new DataView(struct.buffer)
  view.setBigUint64(256, used.pointer(output), true)
  view.setInt32(264, productUnits, true)
  view.setInt32(268, productFaults[fault], true)
  const launch: Launch = {
    kernel: 'planted_product',
    grid: [1, 1, 1],
    block: [160, 1, 1],
    sharedBytes: tileRingBytes(2, 2 * 128 * unitBytes),
    args: [{ as: 'struct', value: struct }],
  }
  device.launch([launch], used)
  const bytes = new Uint8Array(4 * productRows * productOutputs)
  device.read(output, 0, bytes)
  return [...new Float32Array(bytes.buffer)]
}

function rightProduct(): number[] {
  return Array.from({ length: productRows * productOutputs }, (_, at) => {
    const [row, output] = [Math.floor(at / productOutputs), at % productOutputs]
    let sum = 0
    for (let i = 0; i < productWidth; i++) {
      sum += (wholeValues[pickA(row, i)] ?? 0) * (wholeValues[pickB(output, i)] ?? 0)
    }
    return sum
  })
}

describe('products of tiles on the host', () => {
  let program = ''
  beforeAll(async () => {
    program = await programOf(null)
  }, timeoutMs)

  it('are right where nothing is wrong', () => {
    expect(productOf(program, 'none')).toEqual(rightProduct())
  })

  it.each([
    ['notFenced', /a product's registers were not fenced/],
    ['touched', /registers of a product under way were changed/],
    ['barriersNotKnown', /a phase barrier was not made known to the copy engine/],
    ['noMeeting', /threads that did not meet the one that began it/],
    ['neverReleased', /threads wait for a phase that never ends/],
    ['bytesMissing', /threads wait for a phase that never ends/],
    ['notEmptied', /threads wait for a phase that never ends/],
    ['laneMissing', /threads wait for a phase that never ends/],
  ] as const)('say so: %s', (fault, message) => {
    expect(() => productOf(program, fault)).toThrow(message)
  })

  it.each(['notAwaited', 'releasedEarly'] as const)('are NaN: %s', (fault) => {
    expect(productOf(program, fault).some(Number.isNaN)).toBe(true)
  })

  it.each(['wrongSwizzle', 'phaseNotFlipped'] as const)('are wrong, or it is said: %s', (fault) => {
    let found: number[] = []
    try {
      found = productOf(program, fault)
    } catch (error) {
      expect(String(error)).toMatch(/a phase that never ends|ended before a copy's bytes had come/)
    }
    expect(found).not.toEqual(rightProduct())
  })
})
