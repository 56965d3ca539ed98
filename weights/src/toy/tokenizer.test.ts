import { Kitoken } from 'kitoken/node'
import { describe, expect, it } from 'vitest'
import { toyTokenizer } from './tokenizer.ts'

const json = JSON.stringify(toyTokenizer(512))
const tokenizer = Kitoken.from_tokenizers(new TextEncoder().encode(json))
const decode = (ids: readonly number[]): string =>
  new TextDecoder().decode(tokenizer.decode(Uint32Array.from(ids), true))

describe('the toy tokenizer', () => {
  it.each([
    'The checkpoint is small.',
    'Hello, world!  12345 + 6\n\n\tend ',
    '今天的天气很好。こんにちは 毕老师！',
    '👩‍💻 naïve – “quoted” ÿ\u0000\u0001',
    '<｜User｜>Hi<｜Assistant｜><think>why</think>\n\n<｜DSML｜tool_calls>',
    '',
  ])('gives %j back unchanged', (text) => {
    expect(decode([...tokenizer.encode(text, true)])).toBe(text)
  })

  it('knows each control token as one id', () => {
    const text =
      '<｜begin▁of▁sentence｜><｜User｜><｜Assistant｜><think></think>｜DSML｜<｜fim▁hole｜>'
    expect([...tokenizer.encode(text, true)]).toEqual([0, 500, 501, 502, 503, 504, 497])
    expect([...tokenizer.encode('<｜end▁of▁sentence｜>', true)]).toEqual([1])
  })

  it('decodes every one of its 512 ids to at least one byte', () => {
    for (let id = 0; id < 512; id++) {
      expect(tokenizer.decode(Uint32Array.of(id), true).length).toBeGreaterThan(0)
    }
  })

  it('has merged words, so that text takes fewer tokens than bytes', () => {
    const text = 'The next token comes out of the layers, and the count is written down.'
    expect(tokenizer.encode(text, true).length).toBeLessThan(text.length / 2)
  })

  it('without its added tokens reads control texts as plain text', () => {
    const plain = { ...(JSON.parse(json) as object), added_tokens: [] }
    const encoder = Kitoken.from_tokenizers(new TextEncoder().encode(JSON.stringify(plain)))
    const ids = [...encoder.encode('<｜User｜></think>｜DSML｜<｜end▁of▁sentence｜>', true)]
    expect(ids.every((id) => id > 2 && id < 497)).toBe(true)
    expect(decode(ids)).toBe('<｜User｜></think>｜DSML｜<｜end▁of▁sentence｜>')
  })

  it('is the same every time', () => {
    expect(JSON.stringify(toyTokenizer(512))).toBe(json)
  })
})
