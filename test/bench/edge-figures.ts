import { readdir, readFile } from 'node:fs/promises'
import { percentile } from './load.ts'

export function describeMs(values: readonly number[]): string {
  const at = (p: number): string => percentile(values, p).toFixed(2)
  return `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms`
}

/** Processor time that all threads of a process have used so far, in milliseconds. */
export async function cpuMsOf(pid: number): Promise<number> {
  let nanoseconds = 0
  for (const thread of await readdir(`/proc/${pid}/task`)) {
    // Threads come and go between the two calls; one that has gone is not counted.
    const stat = await readFile(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').catch(() => '0')
    nanoseconds += Number(stat.split(' ')[0])
  }
  return nanoseconds / 1e6
}

/** Of what the machine's processors could have done since it started: busy, and taken by its host. */
export interface MachineTime {
  readonly total: number
  readonly idle: number
  readonly stolen: number
}

export async function machineTime(): Promise<MachineTime> {
  const [line = ''] = (await readFile('/proc/stat', 'utf8')).split('\n')
  const ticks = line.trim().split(/\s+/).slice(1, 9).map(Number)
  const [, , , idle = 0, waiting = 0, , , stolen = 0] = ticks
  return { total: ticks.reduce((sum, value) => sum + value, 0), idle: idle + waiting, stolen }
}
