import { strict as assert } from 'node:assert'
import type { GrammarBuilder, TextStep } from './grammar.ts'
import { boundary, jsonCharacterStep, jsonStringStep, without } from './text-steps.ts'

/**
 * Bounds on what JSON leaves open, so that a model that has lost its way cannot go on for ever in a
 * number or in blanks. Integers of this length are those that every reader of JSON holds exactly.
 */
const blanksMax = 64
const integerDigitsMax = 15
const fractionDigitsMax = 15
const exponentDigitsMax = 2

/** The parts of JSON text that grammars call, each made once. */
export class JsonText {
  readonly builder: GrammarBuilder
  readonly #forbidden: string | null
  readonly #entries = new Map<string, number>()

  /** `forbidden`: a text that no string may hold as it is, since it would end what holds the JSON. */
  constructor(builder: GrammarBuilder, forbidden: string | null) {
    this.builder = builder
    this.#forbidden = forbidden
  }

  /** A part of its own: `build` makes it, from an entry to the state it returns. Made once a name. */
  part(name: string, build: (entry: number) => number): number {
    return this.declare(name, (entry) => this.builder.end(build(entry)))
  }

  /** A part whose inside is made by whoever declares it, now or later. */
  declare(name: string, build: (entry: number) => void): number {
    const known = this.#entries.get(name)
    if (known !== undefined) return known
    const entry = this.builder.state()
    this.#entries.set(name, entry)
    build(entry)
    return entry
  }

  forbids(text: string): boolean {
    return this.#forbidden !== null && text.includes(this.#forbidden)
  }

  /** The text that `step` reads, without what is forbidden. */
  guarded(step: TextStep): TextStep {
    return this.#forbidden === null ? step : without(step, this.#forbidden)
  }

  /** Goes through a part; returns the state behind it. */
  through(from: number, entry: number): number {
    const to = this.builder.state()
    this.builder.call(from, entry, to)
    return to
  }

  /** Blanks as people and models set them: perhaps a line break, then spaces or tabs. */
  blanks(from: number): number {
    return this.through(
      from,
      this.part('blanks', (entry) => {
        const { builder } = this
        const end = builder.state()
        builder.skip(entry, end)
        let at = builder.state()
        builder.skip(entry, at)
        builder.bytes(entry, 0x0a, 0x0a, at)
        for (let count = 0; count < blanksMax; count++) {
          const next = builder.state()
          builder.skip(at, end)
          builder.bytes(at, 0x20, 0x20, next)
          builder.bytes(at, 0x09, 0x09, next)
          at = next
        }
        builder.skip(at, end)
        return end
      }),
    )
  }

  /** A string with its quotes. */
  string(): number {
    return this.part('string', (entry) => this.stringBody(this.builder.literal(entry, '"')))
  }

  /** What follows a string's opening quote, the closing one included. */
  stringBody(from: number): number {
    const end = this.builder.state()
    this.builder.text(from, boundary, this.guarded(jsonStringStep), end)
    return end
  }

  /** One character of a string, as it is or as an escape. Nothing is forbidden. */
  character(): number {
    return this.part('character', (entry) => {
      const end = this.builder.state()
      this.builder.text(entry, boundary, jsonCharacterStep, end)
      return end
    })
  }

  integer(): number {
    return this.part('integer', (entry) => {
      const { builder } = this
      const unsigned = builder.state()
      builder.skip(entry, unsigned)
      builder.bytes(entry, 0x2d, 0x2d, unsigned)
      return this.#wholeDigits(unsigned)
    })
  }

  number(): number {
    return this.part('number', (entry) => {
      const { builder } = this
      const whole = this.through(entry, this.integer())
      const fractional = builder.state()
      builder.skip(whole, fractional)
      this.fraction(whole, fractional)
      const end = builder.state()
      builder.skip(fractional, end)
      this.#exponent(fractional, end)
      return end
    })
  }

  /** A point and digits behind it. */
  fraction(from: number, to: number): void {
    const { builder } = this
    builder.skip(this.#digits(builder.literal(from, '.'), fractionDigitsMax), to)
  }

  #exponent(from: number, to: number): void {
    const { builder } = this
    const [sign, digits] = [builder.state(), builder.state()]
    builder.bytes(from, 0x65, 0x65, sign)
    builder.bytes(from, 0x45, 0x45, sign)
    builder.skip(sign, digits)
    builder.bytes(sign, 0x2b, 0x2b, digits)
    builder.bytes(sign, 0x2d, 0x2d, digits)
    builder.skip(this.#digits(digits, exponentDigitsMax), to)
  }

  /** 0, or digits that do not begin with it. */
  #wholeDigits(from: number): number {
    const { builder } = this
    const end = builder.state()
    builder.bytes(from, 0x30, 0x30, end)
    let at = builder.state()
    builder.bytes(from, 0x31, 0x39, at)
    for (let count = 1; count < integerDigitsMax; count++) {
      builder.skip(at, end)
      const next = builder.state()
      builder.bytes(at, 0x30, 0x39, next)
      at = next
    }
    builder.skip(at, end)
    return end
  }

  /** One digit to `most`. */
  #digits(from: number, most: number): number {
    const { builder } = this
    assert(most >= 1, 'at least one digit')
    const end = builder.state()
    let at = from
    for (let count = 0; count < most; count++) {
      const next = builder.state()
      builder.bytes(at, 0x30, 0x39, next)
      builder.skip(next, end)
      at = next
    }
    return end
  }

  /** Any of the texts as it is. */
  words(name: string, texts: readonly string[]): number {
    return this.part(name, (entry) => {
      const end = this.builder.state()
      this.builder.anyLiteral(entry, texts, end)
      return end
    })
  }

  /** Any value there is. */
  value(): number {
    return this.part('value', (entry) => {
      const { builder } = this
      const end = builder.state()
      const words = this.words('words', ['true', 'false', 'null'])
      for (const part of [this.string(), this.number(), words, this.object(), this.array()]) {
        builder.call(entry, part, end)
      }
      return end
    })
  }

  object(): number {
    return this.part('object', (entry) => {
      const open = this.builder.literal(entry, '{')
      const member = (from: number): number => {
        const named = this.blanks(this.through(from, this.string()))
        return this.through(this.blanks(this.builder.literal(named, ':')), this.value())
      }
      return this.list(open, '}', member, { least: 0, most: Infinity })
    })
  }

  array(): number {
    return this.part('array', (entry) => {
      const open = this.builder.literal(entry, '[')
      const item = (from: number): number => this.through(from, this.value())
      return this.list(open, ']', item, { least: 0, most: Infinity })
    })
  }

  /** Items with commas between them, from behind the opening bracket to behind the closing one. */
  list(
    from: number,
    close: string,
    item: (from: number) => number,
    { least, most }: { readonly least: number; readonly most: number },
  ): number {
    const { builder } = this
    const end = builder.state()
    const closeAt = (state: number): void => builder.skip(builder.literal(state, close), end)
    const next = (state: number): number => this.blanks(item(this.blanks(comma(state))))
    const comma = (state: number): number => builder.literal(state, ',')
    const opened = this.blanks(from)
    if (least === 0) closeAt(opened)
    if (most === 0) return end
    let after = this.blanks(item(opened))
    for (let count = 1; count < least; count++) after = next(after)
    closeAt(after)
    if (most === Infinity) builder.skip(next(after), after)
    for (let count = Math.max(1, least); count < most && most !== Infinity; count++) {
      after = next(after)
      closeAt(after)
    }
    return end
  }
}
