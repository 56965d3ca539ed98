import { describe, expect, it } from 'vitest'
import { readVerdict } from './checkers.ts'
import { describeProof, isSound, type Proof } from './report.ts'
import { parseResultLine, resultLine } from './stage-process.ts'
import type { CheckerResult, Found, OpResult } from './stages.ts'

function op(changes: Partial<OpResult> = {}): Found<'ops'> {
  const counts = { passed: 3, failed: 0, refused: 0, left: 0, boundUsed: 0.5 }
  const result: OpResult = { op: 'copy', ...counts, failures: [], lost: false, ...changes }
  return { stage: 'ops', item: 'copy', result }
}

function checker(clean: boolean | null): Found<'checkers'> {
  const result: CheckerResult = { tool: 'memcheck', clean, cases: 3, left: 1, summary: 'said' }
  return { stage: 'checkers', item: 'memcheck', result }
}

function proof(changes: Partial<Proof> = {}): Proof {
  const card = { card: 'a card', architecture: 90, driver: 13_000, clocks: null }
  const how = { date: '2026-01-02', fake: false, toy: false, kernels: 'abc', seed: 1, seconds: 1 }
  return { ...card, ...how, stages: ['ops', 'checkers'], found: [op()], missing: [], ...changes }
}

describe('a proof', () => {
  it.each([
    ['all that was asked for', proof(), true],
    ['a tool that is not there', proof({ found: [op(), checker(null)] }), true],
    ['a clean checker', proof({ found: [op(), checker(true)] }), true],
    ['a checker that found something', proof({ found: [op(), checker(false)] }), false],
    ['a wrong case', proof({ found: [op({ failed: 1 })] }), false],
    ['a refused case', proof({ found: [op({ refused: 1 })] }), false],
    ['cases that time did not last for', proof({ found: [op({ left: 1 })] }), false],
    [
      'an item without a result',
      proof({ missing: [{ stage: 'times', item: 'csa', lost: false, why: 'no time was left' }] }),
      false,
    ],
    [
      'a claim that does not hold',
      proof({
        found: [
          { stage: 'models', item: 'goldens', result: [{ claim: 'c', held: false, seen: 's' }] },
        ],
      }),
      false,
    ],
  ])('with %s: sound or not', (_, made, sound) => {
    expect(isSound(made)).toBe(sound)
    expect(describeProof(made)).toContain(sound ? 'nothing is wrong' : 'Not proved')
  })

  it('says what it has no result of, and what it was not asked for', () => {
    const lost = {
      stage: 'ops',
      item: 'embed',
      lost: true,
      why: 'its process ended with SIGSEGV',
    } as const
    const page = describeProof(proof({ missing: [lost] }))
    expect(page).toContain('| embed | ops | LOST: its process ended with SIGSEGV |')
    expect(page).toContain('Not asked for: models, times, torch.')
  })
})

describe('results between processes', () => {
  it('are found among what else is printed', () => {
    const found = op({ failures: ['a | b'] })
    expect(parseResultLine(resultLine(found))).toEqual(found)
    expect(parseResultLine(`========= ${resultLine(found)}`)).toEqual(found)
    expect(parseResultLine('native kernels: built in 1 s')).toBe(null)
  })
})

describe('a checker’s verdict', () => {
  const ran = resultLine(op({ left: 2 }))

  it.each([
    ['clean', 0, `${ran}\n========= ERROR SUMMARY: 0 errors`, true, 'ERROR SUMMARY: 0 errors'],
    ['errors', 9, `${ran}\n========= ERROR SUMMARY: 2 errors`, false, 'ERROR SUMMARY: 2 errors'],
    ['wrong results', 0, resultLine(op({ failed: 1 })), false, '1 cases went wrong under it'],
    ['ended', null, 'started', null, 'it ran out of time: started'],
    [
      'refused',
      1,
      '========= Error: no device\n',
      null,
      'it ended with 1: ========= Error: no device',
    ],
    ['ran nothing', 0, 'nothing', null, 'it ended with 0: nothing'],
  ] as const)('%s', (_, status, output, clean, summary) => {
    expect(readVerdict('memcheck', status, output)).toMatchObject({ clean, summary })
  })

  it('counts the cases that ran, and those that did not', () => {
    expect(readVerdict('racecheck', 0, ran)).toMatchObject({ clean: true, cases: 3, left: 2 })
  })
})
