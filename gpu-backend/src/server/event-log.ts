import { strict as assert } from 'node:assert'

/** Why events behind a number cannot be given. */
export type EventsMissing =
  /** The buffer has let go of some of them. */
  | 'dropped'
  /** There is no such event yet. */
  | 'ahead'

/**
 * The latest events of one stream, numbered from 1 and bounded by size: the oldest go first. At
 * least the newest is always kept.
 */
export class EventLog {
  readonly #unitsMax: number
  #events: string[] = []
  /** Number of the first event still kept. */
  #first = 1
  #units = 0

  /** `unitsMax`: text kept, in UTF-16 units. */
  constructor(unitsMax: number) {
    assert(unitsMax >= 1, 'something can be kept')
    this.#unitsMax = unitsMax
  }

  /** Number of the latest event; 0 before the first. */
  get last(): number {
    return this.#first + this.#events.length - 1
  }

  /** Text held, in UTF-16 units. */
  get units(): number {
    return this.#units
  }

  /** Takes an event in; returns it with its number, as it goes out. */
  append(event: string): string {
    const numbered = `id: ${this.last + 1}\n${event}`
    this.#events.push(numbered)
    this.#units += numbered.length
    if (this.#units > this.#unitsMax) this.#drop()
    return numbered
  }

  /** Everything behind event `number`, in order. */
  after(number: number): readonly string[] | EventsMissing {
    if (number > this.last) return 'ahead'
    if (number < this.#first - 1) return 'dropped'
    return this.#events.slice(number + 1 - this.#first)
  }

  /** Makes room for a quarter at once: taking one event off the front each time would cost its length. */
  #drop(): void {
    const room = this.#unitsMax * 0.75
    let count = 0
    while (this.#units > room && count < this.#events.length - 1) {
      this.#units -= this.#events[count]?.length ?? 0
      count += 1
    }
    this.#events = this.#events.slice(count)
    this.#first += count
  }
}
