import { describe, expect, it } from 'vitest'
import { StopFilter } from './stop-strings.ts'

function run(stops: readonly string[], pieces: readonly string[]): [string[], boolean] {
  const filter = new StopFilter(stops)
  const out = pieces.map((piece) => filter.push(piece))
  return [[...out, filter.flush()], filter.stopped]
}

describe('StopFilter', () => {
  it('passes text on untouched without stop strings', () => {
    expect(run([], ['a', 'b'])).toEqual([['a', 'b', ''], false])
  })

  it('cuts in front of a stop string and lets nothing follow', () => {
    expect(run(['END'], ['one END two', 'three'])).toEqual([['one ', '', ''], true])
  })

  it('finds a stop string that comes in pieces and shows none of it', () => {
    expect(run(['END'], ['xE', 'N', 'D!'])).toEqual([['x', '', '', ''], true])
  })

  it('lets go of what only looked like the beginning of one', () => {
    expect(run(['END'], ['E', 'EN', 'Q'])).toEqual([['', 'E', 'ENQ', ''], false])
    expect(run(['END'], ['at the EN'])).toEqual([['at the ', 'EN'], false])
  })

  it('cuts at the first of several', () => {
    expect(run(['b', 'ab'], ['xaby'])).toEqual([['x', ''], true])
    expect(run(['\n\n', '###'], ['a\n', '###'])).toEqual([['a', '\n', ''], true])
  })
})
