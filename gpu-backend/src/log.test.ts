import { describe, expect, it } from 'vitest'
import { createLog, errorFields } from './log.ts'

const now = (): number => Date.UTC(2026, 10, 2, 3, 4, 5, 6)

describe('createLog', () => {
  it('writes one JSON object a line', () => {
    const lines: string[] = []
    createLog({ level: 'info', write: (line) => lines.push(line), now }).warn('request', {
      request_id: 'req_1\n2',
      tokens: 3,
    })
    expect(lines).toEqual([
      '{"time":"2026-11-02T03:04:05.006Z","level":"warn","event":"request","request_id":"req_1\\n2","tokens":3}\n',
    ])
  })

  it('leaves out what is below its level', () => {
    const written = (level: 'debug' | 'warn' | 'silent'): number => {
      const lines: string[] = []
      const log = createLog({ level, write: (line) => lines.push(line), now })
      for (const call of [log.debug, log.info, log.warn, log.error]) call('x')
      return lines.length
    }
    expect([written('debug'), written('warn'), written('silent')]).toEqual([4, 2, 0])
  })
})

describe('errorFields', () => {
  it('names the kind, the code and the cause', () => {
    const error = Object.assign(new TypeError('no', { cause: new Error('why') }), { code: 'E1' })
    expect(errorFields(error)).toEqual({ error: 'no', kind: 'TypeError', code: 'E1', cause: 'why' })
    expect(errorFields('plain')).toEqual({ error: 'plain' })
  })
})
