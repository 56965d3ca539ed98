import { readFile, writeFile } from 'node:fs/promises'
import { availableParallelism, cpus } from 'node:os'
import { z } from 'zod'
import type { BenchReport } from './bench.ts'

const baselineSchema = z.object({
  date: z.iso.date(),
  conditions: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  ratios: z.record(z.string(), z.number()),
})
/** A machine kind's file: one entry a bench. */
const baselinesSchema = z.record(z.string(), baselineSchema)

export type Baseline = z.infer<typeof baselineSchema>
export type Baselines = z.infer<typeof baselinesSchema>

/** This machine's kind, as file names have it: processor and threads. */
export function machineKind(): string {
  const model = cpus()[0]?.model ?? 'unknown'
  return `${model} ${availableParallelism()} threads`.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-')
}

export async function readBaselines(kind: string): Promise<Baselines> {
  try {
    return baselinesSchema.parse(JSON.parse(await readFile(fileOf(kind), 'utf8')))
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return {}
    throw error
  }
}

export async function writeBaseline(kind: string, name: string, baseline: Baseline): Promise<void> {
  const all = { ...(await readBaselines(kind)), [name]: baseline }
  const sorted = Object.fromEntries(Object.entries(all).sort(([a], [b]) => (a < b ? -1 : 1)))
  await writeFile(fileOf(kind), `${JSON.stringify(sorted, null, 2)}\n`)
}

function fileOf(kind: string): URL {
  return new URL(`baselines/${kind}.json`, import.meta.url)
}

/** Lines that set a report's ratios beside the baseline's; conditions that differ come first. */
export function describeChange(report: BenchReport, baseline: Baseline | undefined): string[] {
  if (baseline === undefined) return ['no baseline for this machine kind; --save makes one']
  const lines = [`against the baseline of ${baseline.date}:`]
  const keys = new Set([...Object.keys(baseline.conditions), ...Object.keys(report.conditions)])
  for (const key of keys) {
    const [was, is] = [baseline.conditions[key], report.conditions[key]]
    if (was !== is) lines.push(`  ${key} is ${is ?? 'absent'}, was ${was ?? 'absent'}`)
  }
  const names = Object.keys({ ...report.ratios, ...baseline.ratios })
  const width = Math.max(0, ...names.map((name) => name.length))
  for (const name of names) {
    lines.push(`  ${name.padEnd(width)}  ${change(report.ratios[name], baseline.ratios[name])}`)
  }
  return lines
}

function change(is: number | undefined, was: number | undefined): string {
  if (was === undefined) return `${is}, new`
  if (is === undefined) return `was ${was}, no longer measured`
  const percent = 100 * (is / was - 1)
  return `${is}, was ${was}: ${percent < 0 ? '−' : '+'}${Math.abs(percent).toFixed(0)} %`
}
