import { describe, expect, it } from 'vitest'
import { parseArguments, UsageError } from './arguments.ts'

function refusal(...argv: string[]): string | null {
  try {
    parseArguments(argv)
  } catch (error) {
    if (error instanceof UsageError) return error.message
    throw error
  }
  return null
}

const required = ['--checkpoint', 'toy', '--tokens', '5,15, 39']

describe('logits arguments', () => {
  it('default to one step, at full precision, on the best device', () => {
    expect(parseArguments(required)).toEqual({
      kind: 'run',
      arguments: {
        checkpoint: 'toy',
        tokens: Int32Array.of(5, 15, 39),
        device: 'auto',
        quantisation: 'off',
        prefill: 3,
        norms: false,
      },
    })
  })

  it('are taken as given', () => {
    const more = ['--device', 'reference', '--quantisation', 'on', '--prefill', '2', '--norms']
    expect(parseArguments([...required, ...more])).toMatchObject({
      arguments: { device: 'reference', quantisation: 'on', prefill: 2, norms: true },
    })
  })

  it('are refused with the name of the option', () => {
    expect(refusal('--tokens', '5')).toContain('--checkpoint')
    expect(refusal('--checkpoint', 'toy')).toContain('--tokens')
    expect(refusal('--checkpoint', '', '--tokens', '5')).toBe('--checkpoint is empty')
    for (const tokens of ['', '5,', '-1', '1.5', '0x10', 'five']) {
      expect(refusal('--checkpoint', 'toy', '--tokens', tokens)).toContain('--tokens has ')
    }
    expect(refusal(...required, '--device', 'tpu')).toBe(
      '--device tpu is none of auto, cuda, cpu, reference',
    )
    expect(refusal(...required, '--quantisation', 'half')).toBe(
      '--quantisation half is neither off nor on',
    )
    for (const prefill of ['0', '4', 'all', '1.5']) {
      expect(refusal(...required, '--prefill', prefill)).toBe(
        `--prefill ${prefill} is not a count from 1 to the 3 tokens given`,
      )
    }
    expect(refusal(...required, '--frobnicate')).toContain('--frobnicate')
    expect(refusal(...required, 'stray')).toContain('stray')
  })

  it('explain themselves', () => {
    const parsed = parseArguments(['--help'])
    expect(parsed.kind === 'help' && parsed.text).toContain('--quantisation')
  })
})
