import { describe, expect, it } from 'vitest'
import { describeChange, machineKind, readBaselines } from './baseline.ts'

const conditions = { cpu: 'one', threads: 2 }

describe('a baseline', () => {
  it('sets each ratio beside what it was', () => {
    const report = { conditions, ratios: { same: 0.5, better: 0.6, worse: 0.4 } }
    const baseline = {
      date: '2026-11-01',
      conditions,
      ratios: { same: 0.5, better: 0.5, worse: 0.5 },
    }
    expect(describeChange(report, baseline)).toEqual([
      'against the baseline of 2026-11-01:',
      '  same    0.5, was 0.5: +0 %',
      '  better  0.6, was 0.5: +20 %',
      '  worse   0.4, was 0.5: −20 %',
    ])
  })

  it('says which conditions and ratios are not those of the report', () => {
    const report = { conditions: { ...conditions, threads: 4, isa: 'avx2' }, ratios: { a: 1 } }
    const baseline = { date: '2026-11-01', conditions, ratios: { b: 2 } }
    expect(describeChange(report, baseline)).toEqual([
      'against the baseline of 2026-11-01:',
      '  threads is 4, was 2',
      '  isa is avx2, was absent',
      '  a  1, new',
      '  b  was 2, no longer measured',
    ])
  })

  it('may not exist yet', async () => {
    expect(await readBaselines('a-machine-nobody-has')).toEqual({})
    expect(describeChange({ conditions, ratios: {} }, undefined)).toEqual([
      'no baseline for this machine kind; --save makes one',
    ])
  })

  it('belongs to a processor and its threads', () => {
    expect(machineKind()).toMatch(/^[a-z0-9-]+-\d+-threads$/)
  })
})
