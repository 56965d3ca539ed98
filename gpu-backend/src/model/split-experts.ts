import { strict as assert } from 'node:assert'
import type { Device } from '../device/device.ts'
import type { DeviceGroup } from '../device/group.ts'
import { type DType, rowCount, sliceRows, type Tensor } from '../device/tensor.ts'
import { expertSum } from '../kernels/expert-sum/expert-sum.ts'
import { experts, type ExpertsArgs } from '../kernels/experts/experts.ts'
import { gather } from '../kernels/gather/gather.ts'
import type { Pass } from './pass.ts'
import type { Scratch } from './scratch.ts'

// A layer's routed experts over several devices, each of which has rows of its own. Every device
// gathers all rows, works out the places whose experts it has, and adds up its own rows from where
// their places were worked out: in the order a single device adds them, so that how many devices there
// are changes no bit. All of it is read across devices once, and nothing is sent that is not needed.

/** Experts a device has: those from `first` on, of all layers alike. */
export interface OwnedExperts {
  readonly first: number
  readonly count: number
}

/** Which experts device `index` of `devices` has; the last may have fewer than the others. */
export function ownedExperts(expertCount: number, devices: number, index: number): OwnedExperts {
  const first = Math.min(expertCount, index * expertsEach(expertCount, devices))
  return { first, count: Math.min(expertCount - first, expertsEach(expertCount, devices)) }
}

function expertsEach(expertCount: number, devices: number): number {
  return Math.ceil(expertCount / devices)
}

/** What a device has for the others to read. */
interface Offer {
  /** Before the experts: its rows, and which experts they picked. */
  rows: Pick<ExpertsArgs, 'input' | 'experts' | 'weights'> | null
  /** After them: what its experts made of everybody's rows. */
  results: Tensor | null
}

/** Where the devices of a group leave word of what the others are to read. */
export class ExpertExchange {
  readonly group: DeviceGroup
  readonly expertsEach: number
  readonly #offers: readonly Offer[]

  constructor(group: DeviceGroup, expertCount: number) {
    this.group = group
    this.expertsEach = expertsEach(expertCount, group.devices.length)
    this.#offers = group.devices.map(() => ({ rows: null, results: null }))
  }

  offer(index: number, rows: NonNullable<Offer['rows']>): void {
    this.#offerOf(index).rows = rows
  }

  publish(index: number, results: Tensor): void {
    this.#offerOf(index).results = results
  }

  /** The rows of every device, for device `to`. */
  rowsFor(to: number): readonly NonNullable<Offer['rows']>[] {
    return this.#offers.map(({ rows }, from) => {
      assert(rows !== null, 'every device has offered its rows')
      const lend = (tensor: Tensor): Tensor => this.group.lend(tensor, from, to)
      const { input, experts: picks, weights } = rows
      return { input: lend(input), experts: lend(picks), weights: lend(weights) }
    })
  }

  /** The results of every device, for device `to`. */
  resultsFor(to: number): readonly Tensor[] {
    return this.#offers.map(({ results }, from) => {
      assert(results !== null, 'every device has published its results')
      return this.group.lend(results, from, to)
    })
  }

  #offerOf(index: number): Offer {
    const offer = this.#offers[index]
    assert(offer !== undefined, `device ${index} is in the group`)
    return offer
  }
}

/** One device's place in an exchange. */
export interface ExpertSplit {
  readonly exchange: ExpertExchange
  readonly index: number
}

/** A layer's experts op on a device that has some of them. */
export interface SplitLayer {
  readonly device: Device
  readonly scratch: Scratch
  readonly args: ExpertsArgs
}

/** The experts op for the device's own rows, with the other devices' help; helps them meanwhile. */
export function* runSplitExperts(
  { exchange, index }: ExpertSplit,
  { device, scratch, args }: SplitLayer,
): Pass<void> {
  exchange.offer(index, args)
  yield
  // Everybody's rows are there.
  const all = gatherRows(device, scratch, exchange.rowsFor(index))
  const [rows = 0, picked = 0] = all.experts.shape
  const [, hidden = 0] = all.input.shape
  const firstRow = all.firstRows[index] ?? 0
  const results = scratch.take('expert results', 'f32', [rows, picked, hidden])
  const firstExpert = index * exchange.expertsEach
  const { input, experts: picks, weights } = all
  const part = { firstExpert, firstRow, results }
  experts(device, { ...args, input, experts: picks, weights, part })
  exchange.publish(index, results)
  yield
  // Everybody's results are there, and nobody reads this device's rows any more.
  expertSum(device, {
    experts: args.experts,
    results: exchange.resultsFor(index),
    expertsEach: exchange.expertsEach,
    firstRow,
    output: args.output,
  })
}

interface GatheredRows {
  readonly input: Tensor
  readonly experts: Tensor
  readonly weights: Tensor
  /** By device. */
  readonly firstRows: readonly number[]
}

/** All devices' rows behind one another. */
function gatherRows(
  device: Device,
  scratch: Scratch,
  rowsOf: readonly NonNullable<Offer['rows']>[],
): GatheredRows {
  const counts = rowsOf.map(({ input }) => rowCount(input))
  const firstRows = counts.map((_, i) => counts.slice(0, i).reduce((sum, count) => sum + count, 0))
  const rows = counts.reduce((sum, count) => sum + count, 0)
  const take = (name: string, dtype: DType, like: Tensor | undefined): Tensor =>
    scratch.take(name, dtype, [rows, like?.shape[1] ?? 0])
  const [first] = rowsOf
  const to = {
    input: take('all inputs', device.formats.activations, first?.input),
    experts: take('all experts', 'i32', first?.experts),
    weights: take('all expert weights', 'f32', first?.weights),
  }
  gather(device, {
    parts: rowsOf.flatMap((from, i) =>
      (['input', 'experts', 'weights'] as const).map((what) => ({
        from: from[what],
        to: sliceRows(to[what], firstRows[i] ?? 0, counts[i] ?? 0),
      })),
    ),
  })
  return { ...to, firstRows }
}
