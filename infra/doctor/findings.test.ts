import { describe, expect, it } from 'vitest'
import { judge } from './findings.ts'
import type { MachineFacts } from './findings.ts'

const facts: MachineFacts = {
  nodeVersion: '24.21.0',
  platform: 'linux-x64',
  cores: 2,
  memoryBytes: 24 * 2 ** 30,
  compiler: 'g++ 12.2.0',
  nvidiaDriver: '580.65.06',
  nvcc: 'release 13.0',
  port: 8787,
  portFree: true,
  devices: [{ name: 'reference', available: true }],
}

function verdicts(changed: Partial<MachineFacts>): Record<string, string> {
  return Object.fromEntries(
    judge({ ...facts, ...changed }).map((finding) => [finding.name, finding.verdict]),
  )
}

describe('judge', () => {
  it('finds nothing to say against a machine that has everything', () => {
    expect(new Set(Object.values(verdicts({})))).toEqual(new Set(['good']))
  })

  it.each([
    ['an old Node', { nodeVersion: '20.20.2' }, 'Node', 'bad'],
    ['Node 22 before type stripping', { nodeVersion: '22.17.1' }, 'Node', 'bad'],
    ['little memory', { memoryBytes: 2 ** 30 }, 'Machine', 'limited'],
    ['no compiler', { compiler: null }, 'C++ compiler', 'limited'],
    ['no driver', { nvidiaDriver: null }, 'NVIDIA driver', 'limited'],
    ['a driver before CUDA 13', { nvidiaDriver: '570.12' }, 'NVIDIA driver', 'limited'],
    ['a taken port', { portFree: false }, 'Port', 'bad'],
    [
      'no device at all',
      { devices: [{ name: 'cuda', available: false, reason: 'no driver' }] },
      'Devices',
      'bad',
    ],
  ] as const)('judges %s', (_, changed, name, verdict) => {
    expect(verdicts(changed)[name]).toBe(verdict)
  })

  it('says in one line that there is no driver and that it does not matter', () => {
    const finding = judge({ ...facts, nvidiaDriver: null }).find(
      ({ name }) => name === 'NVIDIA driver',
    )
    expect(finding).toEqual({
      name: 'NVIDIA driver',
      verdict: 'limited',
      found: 'none',
      means: 'no GPU is used; everything else works',
    })
  })

  it('names the missing devices with their reasons', () => {
    const devices: MachineFacts['devices'] = [
      { name: 'reference', available: true },
      { name: 'cuda', available: false, reason: 'no driver' },
    ]
    const finding = judge({ ...facts, devices }).find(({ name }) => name === 'Devices')
    expect(finding?.means).toBe('not here: cuda (no driver)')
  })
})
