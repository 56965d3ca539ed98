import { formControls } from '../../gpu-backend/src/grammar/answer-grammar.ts'
import { Constraints } from '../../gpu-backend/src/grammar/constraint.ts'
import { readTokenBytes } from '../../gpu-backend/src/text/tokenizer.ts'
import { toyTokenizer } from '#weights/toy/tokenizer.ts'
import { toyTextTokenizer } from './toy-served.ts'
import { EOS } from '../../gpu-backend/src/text/control-tokens.ts'

const vocabSize = 512

/** Holds the toy's answers to grammars, as its engine does. */
export function toyConstraints(): Constraints {
  const json = new TextEncoder().encode(JSON.stringify(toyTokenizer(vocabSize)))
  return new Constraints(readTokenBytes(json, formControls), {
    size: vocabSize,
    endToken: toyTextTokenizer.controlId(EOS),
  })
}
