import { strict as assert } from 'node:assert'
import type { TokenMask } from '../engine/logit-row.ts'
import { completionCosts } from './completion-costs.ts'
import type { Grammar } from './grammar.ts'
import { allow, type Vocabulary } from './vocabulary.ts'

/** Where a grammar goes on when a called part has ended: a stack, its frames shared by all users. */
interface Frame {
  readonly id: number
  /** −1: the answer ends with the part. */
  readonly state: number
  readonly below: Frame | null
  /** Tokens it takes at most to finish from here. */
  readonly cost: number
  readonly above: Map<number, Frame>
}

interface Config {
  readonly state: number
  readonly frame: Frame
  readonly cost: number
}

/** What may come next at a place. */
interface Menu {
  readonly mask: TokenMask
  /** Of the places its tokens lead to, the farthest from the end. */
  readonly costMax: number
}

/** Every reading of the bytes so far that may still become a whole answer. */
export interface Place {
  readonly configs: readonly Config[]
  /** The answer may end here. */
  readonly complete: boolean
  /** Tokens it takes at most to finish, the end token not counted. */
  readonly cost: number
  readonly next: (Place | null | undefined)[]
  readonly generation: number
  menu: Menu | null
}

/** Tokens that stay inside a running text, and the nodes of the tree at which others leave it. */
interface TextMenu {
  /** By how many more tokens than before it may take to finish behind them: within a character, say. */
  readonly inside: ReadonlyMap<number, TokenMask>
  readonly leaving: Int32Array
  /** The state they leave it for. */
  readonly behind: number
}

/**
 * Readings kept of one place. Only a schema of hundreds of alternatives that begin alike has more;
 * those farthest from an end are then given up, which takes answers away but never adds one.
 */
const configsMax = 256
/** Places and masks remembered before a grammar starts anew: about 12 MB. */
const placesMax = 4096
const menusMax = 512

/**
 * A grammar over a vocabulary. Places are found as answers come by them and remembered, with what may
 * be drawn there, for every answer of the same grammar.
 */
export class Automaton {
  readonly #grammar: Grammar
  readonly #vocabulary: Vocabulary
  readonly #costs: Float64Array
  readonly #classOf: Uint8Array
  readonly #classCount: number
  readonly #bottom: Frame
  readonly #walked: Place[] = []
  readonly #texts = new Map<number, TextMenu>()
  #places = new Map<string, Place>()
  #menuCount = 0
  #frameCount = 0
  #generation = 0

  constructor(grammar: Grammar, vocabulary: Vocabulary) {
    this.#grammar = grammar
    this.#vocabulary = vocabulary
    this.#costs = completionCosts(grammar, vocabulary)
    const { classOf, count } = byteClasses(grammar)
    this.#classOf = classOf
    this.#classCount = count
    this.#bottom = this.#frame(-1, null, 0)
    assert(Number.isFinite(this.start().cost), 'the grammar has an answer')
  }

  start(): Place {
    return this.#place([{ state: this.#grammar.start, frame: this.#bottom }])
  }

  /** The place behind a token that its menu allows. */
  advance(place: Place, bytes: Uint8Array): Place {
    let at = this.#current(place)
    for (const byte of bytes) {
      const next = this.#step(at, byte)
      assert(next !== null, 'the token was allowed')
      at = next
    }
    return at
  }

  /**
   * The tokens that may come next where `tokensLeft` of them may, the end token counted. As long as
   * the shortest way to an end fits, only tokens that leave room for one are allowed; where it does
   * not fit any more, everything the grammar allows.
   */
  allowed(place: Place, tokensLeft: number): TokenMask {
    const menu = this.#menuAt(this.#current(place))
    const roomBehind = tokensLeft - 2
    if (roomBehind >= menu.costMax || tokensLeft - 1 < place.cost) return menu.mask
    const { mask } = this.#menuWithin(place, roomBehind)
    assert(
      mask.some((word) => word !== 0),
      'some token leads nearer to the end',
    )
    return mask
  }

  #menuAt(place: Place): Menu {
    if (place.menu !== null) return place.menu
    const menu = this.#menuWithin(place, Infinity)
    this.#menuCount += 1
    place.menu = menu
    return menu
  }

  /** The tokens that lead no farther than `costMax` from an end. */
  #menuWithin(place: Place, costMax: number): Menu {
    const mask = this.#vocabulary.emptyMask()
    if (place.complete) allow(mask, this.#vocabulary.endToken)
    const text = this.#textAt(place)
    if (text !== null) return { mask, costMax: this.#walkText(place, text, { mask, costMax }) }
    const to = this.#vocabulary.nodeCount
    return { mask, costMax: this.#walk(place, { from: 0, to, mask, costMax }) }
  }

  /** Allows the tokens of a part of the tree that lead no farther than `costMax` from an end. */
  #walk(
    place: Place,
    range: {
      readonly from: number
      readonly to: number
      readonly mask: TokenMask
      readonly costMax: number
    },
  ): number {
    const { byte, depth, skip, token } = this.#vocabulary
    const { from, to, mask, costMax } = range
    const walked = this.#walked
    const top = (depth[from] ?? 1) - 1
    walked[top] = place
    let most = 0
    let node = from
    while (node < to) {
      const own = depth[node] ?? 0
      const before = walked[own - 1]
      assert(before !== undefined)
      const next = this.#step(before, byte[node] ?? 0)
      if (next === null) {
        node = skip[node] ?? to
        continue
      }
      walked[own] = next
      const id = token[node] ?? -1
      if (id >= 0 && next.cost <= costMax) {
        allow(mask, id)
        if (next.cost > most) most = next.cost
      }
      node += 1
    }
    return most
  }

  /** The text that is all there is at the place, and where it would be left. */
  #textAt({ configs }: Place): { menu: TextMenu; behind: Place } | null {
    const [config] = configs
    if (configs.length !== 1 || config === undefined) return null
    if (this.#grammar.text[config.state] !== 1) return null
    const menu = this.#textMenu(config.state)
    return { menu, behind: this.#place([{ state: menu.behind, frame: config.frame }]) }
  }

  #walkText(
    place: Place,
    { menu, behind }: { readonly menu: TextMenu; readonly behind: Place },
    { mask, costMax }: { readonly mask: TokenMask; readonly costMax: number },
  ): number {
    let most = 0
    for (const [rise, inside] of menu.inside) {
      if (place.cost + rise > costMax) continue
      most = Math.max(most, place.cost + rise)
      for (let word = 0; word < mask.length; word++)
        mask[word] = (mask[word] ?? 0) | (inside[word] ?? 0)
    }
    const { skip, token } = this.#vocabulary
    for (const node of menu.leaving) {
      const id = token[node] ?? -1
      if (id >= 0 && behind.cost <= costMax) {
        allow(mask, id)
        most = Math.max(most, behind.cost)
      }
      const range = { from: node + 1, to: skip[node] ?? 0, mask, costMax }
      if (range.from < range.to) most = Math.max(most, this.#walk(behind, range))
    }
    return most
  }

  #textMenu(state: number): TextMenu {
    const known = this.#texts.get(state)
    if (known !== undefined) return known
    const { byte, depth, skip, token, nodeCount } = this.#vocabulary
    const inside = new Map<number, TokenMask>()
    const leaving: number[] = []
    const states: number[] = [state]
    let behind = state
    let node = 0
    while (node < nodeCount) {
      const own = depth[node] ?? 0
      const next = this.#textStep(states[own - 1] ?? state, byte[node] ?? 0)
      states[own] = next
      if (next >= 0 && this.#grammar.text[next] === 1) {
        const id = token[node] ?? -1
        if (id >= 0) allow(this.#insideOf(inside, state, next), id)
        node += 1
      } else {
        if (next >= 0) leaving.push(node)
        if (next >= 0) behind = next
        node = skip[node] ?? nodeCount
      }
    }
    const menu = { inside, leaving: Int32Array.from(leaving), behind }
    this.#texts.set(state, menu)
    this.#menuCount += inside.size
    return menu
  }

  /** The mask of the tokens that lead as much farther from the end as from one state to another. */
  #insideOf(inside: Map<number, TokenMask>, from: number, to: number): TokenMask {
    const rise = (this.#costs[to] ?? 0) - (this.#costs[from] ?? 0)
    const known = inside.get(rise)
    if (known !== undefined) return known
    const mask = this.#vocabulary.emptyMask()
    inside.set(rise, mask)
    return mask
  }

  /** The one state a byte leads to from a state of a text; −1: it does not fit. */
  #textStep(state: number, byte: number): number {
    const { byteFrom, byteLow, byteHigh, byteTo } = this.#grammar
    for (let edge = byteFrom[state] ?? 0; edge < (byteFrom[state + 1] ?? 0); edge++) {
      if (byte < (byteLow[edge] ?? 0) || byte > (byteHigh[edge] ?? 0)) continue
      return byteTo[edge] ?? 0
    }
    return -1
  }

  #step(place: Place, byte: number): Place | null {
    const kind = this.#classOf[byte] ?? 0
    const known = place.next[kind]
    if (known !== undefined) return known
    const { byteFrom, byteLow, byteHigh, byteTo } = this.#grammar
    const roots: { state: number; frame: Frame }[] = []
    for (const { state, frame } of place.configs) {
      for (let edge = byteFrom[state] ?? 0; edge < (byteFrom[state + 1] ?? 0); edge++) {
        if (byte < (byteLow[edge] ?? 0) || byte > (byteHigh[edge] ?? 0)) continue
        roots.push({ state: byteTo[edge] ?? 0, frame })
      }
    }
    const next = roots.length === 0 ? null : this.#place(roots)
    const alive = next !== null && next.cost < Infinity ? next : null
    place.next[kind] = alive
    return alive
  }

  /** The place of these readings and all they come to without another byte. */
  #place(roots: readonly { readonly state: number; readonly frame: Frame }[]): Place {
    const { byteFrom, skipFrom, skipTo, callFrom, callEntry, callReturn, ends } = this.#grammar
    const stateCount = ends.length
    const found = new Map<number, Config>()
    const seen = new Set<number>()
    const pending = [...roots]
    let complete = false
    for (let root = pending.pop(); root !== undefined; root = pending.pop()) {
      const { state, frame } = root
      const key = frame.id * stateCount + state
      const cost = (this.#costs[state] ?? Infinity) + frame.cost
      if (seen.has(key) || cost === Infinity) continue
      seen.add(key)
      if ((byteFrom[state] ?? 0) < (byteFrom[state + 1] ?? 0))
        found.set(key, { state, frame, cost })
      if (ends[state] === 1) {
        if (frame.below === null) complete = true
        else pending.push({ state: frame.state, frame: frame.below })
      }
      for (let skip = skipFrom[state] ?? 0; skip < (skipFrom[state + 1] ?? 0); skip++) {
        pending.push({ state: skipTo[skip] ?? 0, frame })
      }
      for (let call = callFrom[state] ?? 0; call < (callFrom[state + 1] ?? 0); call++) {
        const above = this.#above(frame, callReturn[call] ?? 0)
        if (above !== null) pending.push({ state: callEntry[call] ?? 0, frame: above })
      }
    }
    return this.#intern(found, complete)
  }

  #intern(found: ReadonlyMap<number, Config>, complete: boolean): Place {
    const kept = [...found]
    if (kept.length > configsMax) {
      kept.sort(([, one], [, other]) => compareConfigs(one, other))
      kept.length = configsMax
    }
    const sorted = kept.sort(([a, one], [b, other]) => one.cost - other.cost || a - b)
    const key = `${complete ? '.' : ''}${sorted.map(([config]) => config).join()}`
    const known = this.#places.get(key)
    if (known !== undefined) return known
    const place: Place = {
      configs: sorted.map(([, config]) => config),
      complete,
      cost: complete ? 0 : (sorted[0]?.[1].cost ?? Infinity),
      next: Array.from({ length: this.#classCount }),
      generation: this.#generation,
      menu: null,
    }
    this.#places.set(key, place)
    return place
  }

  /** The frame that goes on in `state` and then as `frame` does; none where no end is in reach. */
  #above(frame: Frame, state: number): Frame | null {
    // A part called last of all returns to whoever called its caller.
    if (this.#onlyEnds(state)) return frame
    const known = frame.above.get(state)
    if (known !== undefined) return known
    const cost = (this.#costs[state] ?? Infinity) + frame.cost
    if (cost === Infinity) return null
    const made = this.#frame(state, frame, cost)
    frame.above.set(state, made)
    return made
  }

  #onlyEnds(state: number): boolean {
    const { byteFrom, skipFrom, callFrom, ends } = this.#grammar
    const edges = [byteFrom, skipFrom, callFrom]
    return ends[state] === 1 && edges.every((from) => from[state] === from[state + 1])
  }

  #frame(state: number, below: Frame | null, cost: number): Frame {
    const id = this.#frameCount
    this.#frameCount += 1
    return { id, state, below, cost, above: new Map() }
  }

  /** Starts remembering anew where there is too much, and takes a place of before over. */
  #current(place: Place): Place {
    if (this.#places.size > placesMax || this.#menuCount > menusMax) {
      this.#places = new Map()
      this.#texts.clear()
      this.#menuCount = 0
      this.#generation += 1
      this.#bottom.above.clear()
    }
    if (place.generation === this.#generation) return place
    const stateCount = this.#grammar.ends.length
    const found = place.configs.map(
      (config) => [config.frame.id * stateCount + config.state, config] as const,
    )
    return this.#intern(new Map(found), place.complete)
  }
}

/**
 * The nearest to the end first, and then by what they are: an order that does not depend on which
 * answer came by a place before.
 */
function compareConfigs(one: Config, other: Config): number {
  if (one.cost !== other.cost) return one.cost - other.cost
  if (one.state !== other.state) return one.state - other.state
  let [a, b]: (Frame | null)[] = [one.frame, other.frame]
  while (a !== b) {
    const difference = (a?.state ?? -2) - (b?.state ?? -2)
    if (difference !== 0) return difference
    a = a?.below ?? null
    b = b?.below ?? null
  }
  return 0
}

/** Bytes that every edge takes or leaves alike are one class: places have an edge a class. */
function byteClasses(grammar: Grammar): { classOf: Uint8Array; count: number } {
  const begins = new Uint8Array(257)
  for (const low of grammar.byteLow) begins[low] = 1
  for (const high of grammar.byteHigh) begins[high + 1] = 1
  const classOf = new Uint8Array(256)
  let count = 1
  for (let byte = 0; byte < 256; byte++) {
    if (byte > 0 && begins[byte] === 1) count += 1
    classOf[byte] = count - 1
  }
  return { classOf, count }
}
