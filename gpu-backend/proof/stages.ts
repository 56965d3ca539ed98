import { opNames } from '../src/kernels/testing/all-cases.ts'
import type { OpName } from '../src/kernels/registry.ts'

// What a proof is made of, and what each part of it says. Every stage is run in processes of its own.

/** In the order of their worth: the clock may run out on the later ones. */
export const stageNames = ['ops', 'models', 'times', 'checkers', 'torch'] as const
export type StageName = (typeof stageNames)[number]

export const modelParts = ['goldens', 'invariance off', 'invariance on'] as const
export const layerKinds = ['swa', 'csa', 'hca'] as const
/** Many rows multiplied by `wgmma`; the other layers, and everything else, are by `mma`. */
const layersByWgmma = ['csa by wgmma'] as const
export const checkerTools = ['memcheck', 'racecheck', 'synccheck'] as const

export type TimedKind = (typeof layerKinds)[number]
export type CheckerTool = (typeof checkerTools)[number]

/** What of a stage is proved, and may be lost, by itself; in the order it is run. */
export const itemsOf: Readonly<Record<StageName, readonly string[]>> = {
  ops: opNames,
  models: modelParts,
  times: [...layerKinds, ...layersByWgmma],
  checkers: checkerTools,
  torch: ['products'],
}

/** Seconds without a result after which a process hangs, and is ended. */
export const itemSecondsMax: Readonly<Record<StageName, number>> = {
  ops: 60,
  models: 90,
  times: 90,
  checkers: 90,
  torch: 90,
}

/** Seconds a stage may take of a run, so that those behind it come to their turn. */
export const stageSecondsMax: Readonly<Record<StageName, number>> = {
  ops: 150,
  models: 120,
  times: 150,
  checkers: 120,
  torch: 90,
}

/** How a run goes about its stages; every process of it is told. */
export interface ProofOptions {
  /** The fake driver: kernels on the host, no times. */
  readonly fake: boolean
  /** Small cases, a short text, narrow layers: what a host that passes for a GPU can do. */
  readonly toy: boolean
  readonly seed: number
}

/** How an op's cases went. */
export interface OpResult {
  readonly op: OpName
  readonly passed: number
  readonly failed: number
  readonly refused: number
  /** Cases that time did not last for. */
  readonly left: number
  /** The largest share of its bound that any value took. */
  readonly boundUsed: number
  /** The first failures, in words. */
  readonly failures: readonly string[]
  /** The GPU answers nothing more to the process that ran them. */
  readonly lost: boolean
}

/** One claim about whole models, and whether it held. */
export interface Claim {
  readonly claim: string
  readonly held: boolean
  /** What was seen. */
  readonly seen: string
}

/** A whole layer of V4-Flash, all its widths and experts, in one step. */
export interface LayerTime {
  readonly kind: TimedKind
  readonly step: string
  /** The median of several runs, by the GPU's clock, with weights that are not in its cache. */
  readonly milliseconds: number
  readonly bestMilliseconds: number
  readonly runs: number
  /** What memory or matrix units need at least, whichever is longer. */
  readonly floorMilliseconds: number
  readonly ofFloor: number
  readonly gate: number
  readonly met: boolean
}

/** One kind of layer in all its steps, and what the card's clocks were right after. */
export interface KindTimes {
  readonly times: readonly LayerTime[]
  readonly clocks: string | null
  /** The most of the card's memory that was held. */
  readonly gigabytes: number
}

/** A memory or race checker's verdict on the op suite's small cases. */
export interface CheckerResult {
  readonly tool: CheckerTool
  /** null: not run, `summary` says why. */
  readonly clean: boolean | null
  /** Cases that ran under it, and those that time did not last for. */
  readonly cases: number
  readonly left: number
  readonly summary: string
}

/** One dense bf16 product, ours and torch's. */
export interface ProductTime {
  readonly rows: number
  readonly inputs: number
  readonly outputs: number
  readonly milliseconds: number
  readonly torchMilliseconds: number
  /** Torch's time by ours; at least `productGate`. */
  readonly ofTorch: number
}

/** The reason where there is no torch to compare with. */
export type TorchResult =
  | { readonly version: string; readonly products: readonly ProductTime[] }
  | { readonly reason: string }

/** What each stage says of one of its items. */
export interface StageResults {
  readonly ops: OpResult
  readonly models: readonly Claim[]
  readonly times: KindTimes
  readonly checkers: CheckerResult
  readonly torch: TorchResult
}

/** One item's result on its way from the process that found it. */
export interface Found<Stage extends StageName = StageName> {
  readonly stage: Stage
  readonly item: string
  readonly result: StageResults[Stage]
}

/** An item without a result: its process was lost with it, or never came to it. */
export interface Missing {
  readonly stage: StageName
  readonly item: string
  readonly lost: boolean
  readonly why: string
}

export function isStageName(name: string): name is StageName {
  return stageNames.some((known) => known === name)
}
