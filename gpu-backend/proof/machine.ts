import { spawnSync } from 'node:child_process'

const fields = [
  'driver_version',
  'clocks.sm',
  'clocks.mem',
  'clocks.max.sm',
  'temperature.gpu',
  'power.draw',
  'clocks_event_reasons.active',
] as const

const program = 'nvidia-smi'
const timeoutMs = 10_000

/** What the driver's own tool says of a card at this moment, in one line; null where it is not there. */
export function readClocks(ordinal: number): string | null {
  const { status, stdout } = spawnSync(
    program,
    ['-i', String(ordinal), `--query-gpu=${fields.join()}`, '--format=csv,noheader'],
    { encoding: 'utf8', timeout: timeoutMs },
  )
  if (status !== 0) return null
  const values = stdout.trim().split(', ')
  return fields.map((field, i) => `${field} ${values[i] ?? '?'}`).join(', ')
}
