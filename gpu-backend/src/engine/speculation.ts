import { strict as assert } from 'node:assert'
import type { CachedPrefix, DraftSegment, Model, Sequence } from '../model/model.ts'

// Speculation: the draft block guesses what comes behind the token just drawn, and the next step
// feeds the guesses along with it. Each row of logits that comes back is drawn from as if it had
// come alone, and the first draw that is not what was guessed ends the step: what follows it is
// taken back. So a text depends on guesses in nothing but the number of steps it takes.

/** The part of a model that guessing needs. */
export type GuessingModel = Pick<Model, 'draft' | 'drafts' | 'rollback' | 'rollbackMax'>

/**
 * How much the latest guess counts in a rate: some sixteen are remembered. A head that is right six
 * times in ten falls below the floor by chance once in 46,000 guesses, seven in ten in two million.
 */
const latestWeight = 1 / 16

/**
 * Rate below which guesses at a depth are no longer made. A row more in a step costs less than a step
 * of its own, but it costs: other experts are read for it, and the draft block is run.
 */
const rateFloor = 0.25

/**
 * How often a request's guesses were right lately, by how far ahead they were. Starts out hopeful, and
 * gives a depth up for good once it does not pay: the draft block's window has to follow every token,
 * so that leaving off and coming back would cost as much as going on. Knows the request's own guesses
 * alone, whatever runs beside it.
 */
export class GuessRecord {
  readonly #rates: number[]

  constructor(draftsMax: number) {
    this.#rates = Array.from({ length: draftsMax }, () => 1)
  }

  /** Guesses worth making for one step. */
  get depth(): number {
    return this.#rates.length
  }

  /** Of `tried` guesses in a row the first `right` were. Those behind a wrong one show nothing. */
  note(tried: number, right: number): void {
    for (let depth = 0; depth < Math.min(tried, right + 1, this.#rates.length); depth++) {
      const rate = this.#rates[depth] ?? 0
      this.#rates[depth] = rate + latestWeight * (Number(depth < right) - rate)
    }
    const poor = this.#rates.findIndex((rate) => rate < rateFloor)
    if (poor !== -1) this.#rates.length = poor
  }
}

/** One request's guesses. */
export class Guesses {
  readonly #record: GuessRecord
  /** Whether the draft block has seen all that the model has of the sequence. */
  #followed = false
  #tokens: readonly number[] = []

  constructor(draftsMax: number) {
    this.#record = new GuessRecord(draftsMax)
  }

  /** What is guessed to come behind the last token. */
  get tokens(): readonly number[] {
    return this.#tokens
  }

  /** Whether the draft block is to see the sequence's next step. */
  get following(): boolean {
    return this.#followed && this.#record.depth > 0
  }

  /** Guesses worth making for one step. */
  get depth(): number {
    return this.#record.depth
  }

  /** The sequence has a place in the model, behind `from` if any. */
  place(from: CachedPrefix | undefined): void {
    this.#followed = from === undefined || from.drafted
    this.#tokens = []
  }

  set(tokens: readonly number[]): void {
    this.#tokens = tokens
  }

  /** The first `tried` of the guesses were fed, and the first `right` were right. */
  note(tried: number, right: number): void {
    this.#record.note(tried, right)
    this.#tokens = []
  }
}

/** A sequence whose step has run, as it stands once wrong guesses have been taken back. */
export interface FollowedStep {
  readonly sequence: Sequence
  readonly guesses: Guesses
  /** The token behind each row of the step that stays. */
  readonly next: Int32Array
  /** Guesses that may be of use for the next step. */
  readonly wanted: number
}

export class Speculation {
  readonly #model: GuessingModel
  readonly #draftsMax: number

  constructor(model: GuessingModel, draftsMax: number) {
    assert(model.drafts, 'a model that guesses has its draft block')
    assert(
      draftsMax >= 1 && draftsMax <= model.rollbackMax,
      `${draftsMax} guesses are 1…${model.rollbackMax}, which can be taken back`,
    )
    this.#model = model
    this.#draftsMax = draftsMax
  }

  open(): Guesses {
    return new Guesses(this.#draftsMax)
  }

  /** Forgets the latest `wrong` tokens of a sequence. */
  takeBack(sequence: Sequence, wrong: number): void {
    if (wrong > 0) this.#model.rollback(sequence, sequence.length - wrong)
  }

  /** Shows the draft block the step that has just run, and has it guess what comes next. */
  follow(steps: readonly FollowedStep[]): void {
    const followed = steps.filter(({ guesses }) => guesses.following)
    const found = followed.map((): number[] => [])
    let wave = followed.map((step, index) => {
      const wanted = Math.min(step.wanted, step.guesses.depth)
      return { ...step, wanted, tokens: found[index] ?? [] }
    })
    let segments = wave.map(({ sequence, next, wanted }): DraftSegment => {
      return { sequence, tokens: next, after: 'forward', logits: wanted > 0 ? 'last' : 'none' }
    })
    for (let depth = 1; segments.length > 0; depth++) {
      const rows = this.#model.draft(segments)
      wave = wave.filter(({ wanted }) => wanted >= depth)
      assert.equal(rows.length, wave.length, 'one row of logits for each guess')
      for (const [index, { tokens }] of wave.entries()) {
        const row = rows[index]
        assert(row !== undefined)
        tokens.push(likeliest(row))
      }
      wave = wave.filter(({ wanted }) => wanted > depth)
      segments = wave.map(({ sequence, tokens }) => {
        const latest = Int32Array.from(tokens.slice(-1))
        return { sequence, tokens: latest, after: 'draft', logits: 'last' }
      })
    }
    for (const [index, { guesses }] of followed.entries()) guesses.set(found[index] ?? [])
  }
}

/** A token drawn, and what of the text's end it means. */
export interface Draw<Ended> {
  readonly token: number
  readonly ended: Ended | null
}

/**
 * Draws from one row after the other as long as each draw is what was guessed: `rows` has one more
 * than `guesses`. Gives how many guesses were right, and whether the last draw ends the text, which
 * ends the drawing too.
 */
export function drawWhileRight<Ended>(
  rows: readonly Float32Array[],
  guesses: readonly number[],
  draw: (row: Float32Array) => Draw<Ended>,
): { readonly right: number; readonly ended: Ended | null } {
  assert.equal(rows.length, guesses.length + 1, 'a row for each guess, and one before them')
  for (const [right, row] of rows.entries()) {
    const { token, ended } = draw(row)
    if (ended !== null || token !== guesses[right]) return { right, ended }
  }
  assert.fail('nothing is guessed behind the last row')
}

/** Ties go to the lowest id. */
function likeliest(row: Float32Array): number {
  let best = 0
  for (let token = 1; token < row.length; token++) {
    if ((row[token] ?? 0) > (row[best] ?? 0)) best = token
  }
  return best
}
