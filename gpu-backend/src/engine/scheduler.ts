import { strict as assert } from 'node:assert'
import { PageLedger } from './page-ledger.ts'
import { PrefixCache, type PrefixEntry } from './prefix-cache.ts'

export interface SchedulerLimits {
  /** Sequences that take part in a step. */
  readonly runningMax: number
  /** Sequences that wait for one of those places. */
  readonly waitingMax: number
  /** Prompt tokens of those; a single prompt may be longer. */
  readonly waitingTokensMax: number
  /** Tokens a step feeds over all sequences, prompts and answers alike; at least two a sequence. */
  readonly stepTokensMax: number
}

/** What the model's cache may hold. */
export interface CacheSize {
  readonly pageTokens: number
  readonly pagesMax: number
  readonly prefixesMax: number
}

export interface ScheduledSequence {
  readonly id: number
  readonly promptTokens: number
  readonly outputTokensMax: number
  readonly priority: number
  readonly deadlineMs: number | null
  /** Names of the whole pages of prompt and answer, growing with it; empty: it shares nothing. */
  readonly pageKeys: readonly string[]
}

/** When it is, and how fast prompts are taken in; null: not known yet. */
export interface Pace {
  readonly nowMs: number
  readonly promptTokensPerMs: number | null
}

/** What one sequence feeds in a step: `count` tokens from position `offset`. */
export interface ScheduledSegment {
  readonly id: number
  readonly offset: number
  readonly count: number
  /** How many of those, the last ones, are guesses. */
  readonly drafts: number
  /** Whether a token is sampled behind it: it feeds the last token that is known. */
  readonly samples: boolean
  /** Whether it takes in what was known before, and not just the token sampled last. */
  readonly prefill: boolean
}

/** What a step is to do, in this order. All of it is already so in the scheduler's own books. */
export interface StepPlan {
  /** Past their deadline, and gone. */
  readonly expired: readonly number[]
  /** Prefixes to drop, by name. */
  readonly dropped: readonly string[]
  /** Sequences that lose their place in the cache and wait again. */
  readonly preempted: readonly number[]
  readonly admitted: readonly Admission[]
  readonly segments: readonly ScheduledSegment[]
}

export interface Admission {
  readonly id: number
  /** The prefix it starts behind, and how many tokens that is. */
  readonly prefix: string | null
  readonly cachedTokens: number
  /** It has run before, and comes back from being preempted. */
  readonly again: boolean
}

/** A prefix to keep of a sequence as it stands now, once others have been dropped for it. */
export interface Keep {
  readonly id: number
  readonly key: string
  readonly dropped: readonly string[]
}

export type SubmitStatus =
  | 'accepted'
  /** Neither a place nor room in the queue, by count or by tokens. */
  | 'queue_full'
  /** It does not fit the cache even alone. */
  | 'too_long'
  /** It cannot begin to answer before its deadline. */
  | 'too_late'

/**
 * One step of priority is worth this much waiting: a request goes before those of the next lower
 * priority that came up to so long before it. So whoever waits is passed by what comes during that
 * time and by nothing after, however much there is of it: a floor for the lowest.
 */
export const priorityHeadStartMs = 30_000

/** Snapshots along a long prompt beside the one at its end, and how many pages apart at least. */
const marksBetweenMax = 4
const markStrideMin = 4

/** A place in a prompt, in whole pages, at which its beginning is to be kept. */
interface Mark {
  readonly pages: number
  /** Only if a place is free: nothing is dropped for it. */
  readonly optional: boolean
}

interface SequenceState extends ScheduledSequence {
  /** Smaller goes first, throughout its life: in the queue, in the step, in what it keeps. */
  readonly order: number
  readonly number: number
  /** Prompt tokens that were not in the cache when it came: what it has still to take in, about. */
  readonly expectedTokens: number
  begun: boolean
  /** Tokens whose rows are in the model's cache. */
  computed: number
  generated: number
  /** Guesses offered for the next step. */
  offered: number
  /** Empty while it waits. */
  readonly pages: number[]
  marks: readonly Mark[]
  /** The latest prefix kept of its answer; the next one takes its place. */
  kept: string | null
}

/**
 * Who takes part in the next step, and in which pages. One order decides everything: arrival, moved
 * ahead by priority. The first in it takes pages it lacks from prefixes nobody used for long, then
 * from the last in it, who waits to be computed again; so the first always comes to its end, and
 * everyone becomes the first. Knows lengths, names and times it is told; no tokens, no clock, no
 * device. `schedule` and `commit` alternate; everything else goes between a `commit` and the next
 * `schedule`. Its invariants are asserted at every step.
 */
export class Scheduler {
  readonly limits: SchedulerLimits
  readonly #cache: CacheSize
  readonly #ledger: PageLedger
  readonly #prefixes: PrefixCache
  /** Both in order. */
  readonly #waiting: SequenceState[] = []
  readonly #running: SequenceState[] = []
  readonly #sequences = new Map<number, SequenceState>()
  #scheduled: readonly ScheduledSegment[] | null = null
  #submitted = 0

  constructor(limits: SchedulerLimits, cache: CacheSize) {
    const { runningMax, waitingMax, waitingTokensMax, stepTokensMax } = limits
    assertCount('runningMax', runningMax, 1)
    assertCount('waitingMax', waitingMax, 0)
    assertCount('waitingTokensMax', waitingTokensMax, 1)
    assertCount('stepTokensMax', stepTokensMax, 2 * runningMax)
    assertCount('pageTokens', cache.pageTokens, 1)
    this.limits = limits
    this.#cache = cache
    this.#ledger = new PageLedger(cache.pagesMax)
    this.#prefixes = new PrefixCache(cache.prefixesMax)
  }

  get runningCount(): number {
    return this.#running.length
  }

  get waitingCount(): number {
    return this.#waiting.length
  }

  /** Tokens that those who wait feed before their next token. */
  get waitingTokens(): number {
    return this.#waiting.reduce((total, state) => total + known(state), 0)
  }

  /** Tokens that those who run or wait take in before their next token. */
  get tokensAhead(): number {
    return [...this.#sequences.values()].reduce((total, state) => total + toTakeIn(state), 0)
  }

  /** Places in the running set that nobody has or waits for. */
  get placesLeft(): number {
    return Math.max(0, this.limits.runningMax - this.#sequences.size)
  }

  /** Pages that nobody holds. */
  get pagesFree(): number {
    return this.#ledger.free
  }

  /** Pages for sequences to come: prefixes make way, and what runs has what its prompts still take. */
  get pagesAvailable(): number {
    const promised = this.#running.reduce((total, state) => total + this.#promised(state), 0)
    return Math.max(0, this.#cache.pagesMax - this.#ledger.heldBySequences - promised)
  }

  submit(sequence: ScheduledSequence, pace: Pace): SubmitStatus {
    this.#assertBetweenSteps()
    const { id, promptTokens, outputTokensMax, priority, pageKeys } = sequence
    assert(!this.#sequences.has(id), `sequence ${id} is new`)
    assert(promptTokens >= 1 && outputTokensMax >= 1, `sequence ${id} has a prompt and may answer`)
    assert(Number.isSafeInteger(priority), `priority ${priority} is a whole number`)
    if (this.#pagesFor(fedMax(sequence)) > this.#cache.pagesMax) return 'too_long'
    if (!this.#hasRoom(promptTokens)) return 'queue_full'
    this.#submitted += 1
    const cached = this.#prefixes.find(pageKeys, this.#pagesBefore(promptTokens))?.pages.length ?? 0
    const state: SequenceState = {
      ...sequence,
      order: pace.nowMs - priority * priorityHeadStartMs,
      number: this.#submitted,
      expectedTokens: promptTokens - cached * this.#cache.pageTokens,
      begun: false,
      computed: 0,
      generated: 0,
      offered: 0,
      pages: [],
      marks: [],
      kept: null,
    }
    if (!this.#canBegin(state, pace)) return 'too_late'
    this.#sequences.set(id, state)
    insert(this.#waiting, state)
    return 'accepted'
  }

  /** Takes a sequence out: it is finished, or nobody wants it any more. Its pages are free at once. */
  remove(id: number): void {
    this.#assertBetweenSteps()
    const state = this.#state(id)
    this.#sequences.delete(id)
    this.#vacate(state)
    takeOut(this.#waiting, state)
  }

  /** Guesses for what comes behind a sequence's last token; the next step tries as many as fit. */
  offerDrafts(id: number, count: number): void {
    this.#assertBetweenSteps()
    this.#state(id).offered = count
  }

  /** Pages of the longest kept beginning that a prompt with these names could start behind. */
  cachedPages(pageKeys: readonly string[], promptTokens: number): number {
    return this.#prefixes.find(pageKeys, this.#pagesBefore(promptTokens))?.pages.length ?? 0
  }

  /**
   * Takes in a prefix that was kept elsewhere, if nobody who runs needs its pages: colder ones make
   * way. Gives the names of those to drop, or null where there is no room.
   */
  adopt(key: string, count: number): readonly string[] | null {
    this.#assertBetweenSteps()
    if (this.#prefixes.max === 0 || count > this.pagesAvailable) return null
    const dropped: string[] = []
    while (this.#prefixes.full || this.#ledger.free < count) {
      const lacksPages = this.#ledger.free < count
      const coldest = this.#prefixes.coldest(
        ({ pages }) => !lacksPages || this.#ledger.hasOneOwner(pages.at(-1) ?? 0),
      )
      assert(coldest !== null, 'pages no sequence holds are free or a prefix has them')
      dropped.push(this.#drop(coldest.key))
    }
    const fresh: number[] = []
    this.#ledger.resize(fresh, count)
    this.#prefixes.add({ key, pages: this.#ledger.share(fresh, 'prefix') })
    this.#ledger.resize(fresh, 0)
    return dropped
  }

  /** Lets go of a prefix that turns out not to be there. */
  disown(key: string): void {
    this.#assertBetweenSteps()
    this.#drop(key)
  }

  /** Decides the next step. Empty when nothing runs. */
  schedule(pace: Pace): StepPlan {
    this.#assertBetweenSteps()
    const expired = this.#expire(pace)
    const changes: CacheChanges = { dropped: [], preempted: [] }
    const admitted = this.#admit(changes)
    const gaveWay = changes.preempted.length
    const segments = this.#segments(changes)
    const turnedOut = changes.preempted.slice(gaveWay)
    const comesAndGoes = admitted.some(({ id }) => turnedOut.includes(id))
    assert(!comesAndGoes, 'who is let in has room for the step')
    this.#scheduled = segments
    this.#assertInvariants()
    return { expired, ...changes, admitted, segments }
  }

  /**
   * The scheduled step has run: its rows are in the cache, and each sampling segment has a token.
   * `accepted`: how many of a segment's drafts were right, where any were; the model has been taken
   * back behind the others. Gives the prefixes to keep now, before anything else changes.
   */
  commit(accepted: ReadonlyMap<number, number> = new Map()): readonly Keep[] {
    const segments = this.#scheduled
    assert(segments !== null, 'a step was scheduled')
    this.#scheduled = null
    const keeps: Keep[] = []
    for (const { id, count, drafts, samples } of segments) {
      const state = this.#state(id)
      const right = accepted.get(id) ?? 0
      assert(right >= 0 && right <= drafts, `${right} of ${drafts} drafts were right`)
      state.computed += count - drafts + right
      if (samples) state.generated += 1 + right
      state.offered = 0
      this.#ledger.resize(state.pages, this.#pagesFor(state.computed))
      const keep = this.#keep(state)
      if (keep !== null) keeps.push(keep)
    }
    this.#assertInvariants()
    return keeps
  }

  /** Recounts every page; as long as the cache is large. For tests. */
  audit(): void {
    const prefixes = [...this.#prefixes.entries].map(({ pages }) => pages)
    this.#ledger.audit(
      this.#running.map(({ pages }) => pages),
      prefixes,
    )
    assert(prefixes.length <= this.#cache.prefixesMax, 'no more prefixes than places')
  }

  #hasRoom(promptTokens: number): boolean {
    // Places nobody has taken yet count as room: a burst into an idle engine fills those first.
    const { runningMax, waitingMax, waitingTokensMax } = this.limits
    if (this.#sequences.size >= runningMax + waitingMax) return false
    const fresh = this.#waiting.filter(({ begun }) => !begun)
    const tokens = fresh.reduce((total, state) => total + state.promptTokens, 0)
    return fresh.length === 0 || tokens + promptTokens <= waitingTokensMax
  }

  /**
   * Whether its first token can come before its deadline, with the prompts before it at the pace of
   * prompts so far. An estimate, since those may find more in the cache, or less.
   */
  #canBegin(state: SequenceState, { nowMs, promptTokensPerMs }: Pace): boolean {
    if (state.deadlineMs === null) return true
    if (promptTokensPerMs === null) return nowMs < state.deadlineMs
    const ahead = [...this.#running, ...this.#waiting].filter((other) => before(other, state))
    const tokens = ahead.reduce((total, other) => total + toTakeIn(other), toTakeIn(state))
    return nowMs + tokens / promptTokensPerMs < state.deadlineMs
  }

  /** Whoever is past the deadline, or cannot begin to answer before it even if it were next. */
  #expire({ nowMs, promptTokensPerMs }: Pace): number[] {
    const isLate = (state: SequenceState): boolean => {
      if (state.deadlineMs === null) return false
      const waits = state.generated === 0 && promptTokensPerMs !== null
      const leastMs = waits ? toTakeIn(state) / promptTokensPerMs : 0
      return nowMs + leastMs >= state.deadlineMs
    }
    const late = [...this.#running, ...this.#waiting].filter(isLate)
    for (const { id } of late) this.remove(id)
    return late.map(({ id }) => id)
  }

  /** Lets the first in the queue in, as long as there are places and pages. */
  #admit(changes: CacheChanges): Admission[] {
    const admitted: Admission[] = []
    // Those held back are passed over, but not for ever: what they are held back for may be long.
    let heldBack = 0
    while (heldBack < Math.min(this.#waiting.length, this.limits.runningMax)) {
      const state = this.#waiting[heldBack]
      assert(state !== undefined)
      if (this.#waitsForPrefix(state)) {
        heldBack += 1
        continue
      }
      if (!this.#makeRoom(state, changes)) break
      this.#waiting.splice(heldBack, 1)
      admitted.push(this.#enter(state))
    }
    return admitted
  }

  /**
   * Whether a sequence that goes first anyway is about to keep more of this one's beginning than is
   * there now. Computing it a second time would save no time and cost the same again.
   */
  #waitsForPrefix(state: SequenceState): boolean {
    const { pageKeys } = state
    const usable = this.#pagesBefore(known(state))
    const found = this.#prefixes.find(pageKeys, usable)?.pages.length ?? 0
    return this.#running.some(
      (other) =>
        before(other, state) &&
        other.marks.some(
          ({ pages, optional }) =>
            pages > found &&
            pages <= usable &&
            pages * this.#cache.pageTokens > other.computed &&
            !(optional && this.#prefixes.full) &&
            pageKeys[pages - 1] === other.pageKeys[pages - 1],
        ),
    )
  }

  /** Whether a sequence has a place and its prompt's pages, if need be those of lower priority. */
  #makeRoom(state: SequenceState, changes: CacheChanges): boolean {
    const yielding = this.#running.filter(
      (other) => before(state, other) && other.priority < state.priority,
    )
    const lacking = this.#pagesLacking(state)
    const places = this.limits.runningMax - this.#running.length
    const gain = yielding.reduce((total, other) => total + this.#gain(other), 0)
    if (places + yielding.length < 1 || lacking > gain) return false
    while (this.#running.length >= this.limits.runningMax || this.#pagesLacking(state) > 0) {
      const last = yielding.pop()
      if (last === undefined) return false
      this.#preempt(last, changes)
    }
    return true
  }

  /**
   * Pages beyond those available that the sequence's known tokens and its next one take. Beside
   * others it leaves each of them a page to grow into, or they would soon push it out again.
   */
  #pagesLacking(state: SequenceState): number {
    const wanted = this.#pagesFor(Math.min(known(state) + 1, fedMax(state)))
    const found = this.#found(state)?.pages ?? []
    const held = found.filter((page) => this.#ledger.isHeldBySequence(page)).length
    const promised = this.#running.reduce((total, other) => total + this.#promised(other), 0)
    const taken = this.#ledger.heldBySequences + promised + this.#running.length
    return wanted - held + taken - this.#cache.pagesMax
  }

  /** Pages that come free, or are no longer promised, when a running sequence gives way. */
  #gain(state: SequenceState): number {
    const own = state.pages.filter((page) => this.#ledger.hasOneOwner(page)).length
    return own + this.#promised(state) + 1
  }

  /** Pages a running sequence does not have yet, but has been let in for. */
  #promised(state: SequenceState): number {
    const wanted = this.#pagesFor(Math.min(known(state) + 1, fedMax(state)))
    return Math.max(0, wanted - state.pages.length)
  }

  #enter(state: SequenceState): Admission {
    const { id, pageKeys, begun } = state
    const entry = this.#found(state)
    if (entry !== null) {
      this.#prefixes.touch(pageKeys, entry.pages.length)
      state.pages.push(...this.#ledger.share(entry.pages, 'sequence'))
    }
    state.computed = state.pages.length * this.#cache.pageTokens
    state.marks = this.#marksOf(state)
    state.begun = true
    insert(this.#running, state)
    return { id, prefix: entry?.key ?? null, cachedTokens: state.computed, again: begun }
  }

  /** The longest kept beginning that leaves a token to feed: logits come behind a fed one. */
  #found(state: SequenceState): PrefixEntry | null {
    return this.#prefixes.find(state.pageKeys, this.#pagesBefore(known(state)))
  }

  /**
   * Where to keep the beginning of what a sequence takes in: behind its last whole page, where it
   * parts from an earlier prompt, and now and then on a long way. Those between lie on multiples of
   * a power of two, so that prompts alike choose them alike.
   */
  #marksOf(state: SequenceState): readonly Mark[] {
    if (this.#prefixes.max === 0 || state.pageKeys.length === 0) return []
    const start = state.pages.length
    const last = this.#pagesBefore(known(state))
    const parting = this.#prefixes.meet(state.pageKeys.slice(0, last))
    const stride = 2 ** Math.ceil(Math.log2(Math.max(markStrideMin, last / marksBetweenMax)))
    const pages = new Set([last, parting])
    for (let at = stride; at < last; at += stride) pages.add(at)
    return [...pages]
      .filter((at) => at > start)
      .toSorted((a, b) => a - b)
      .map((at) => ({ pages: at, optional: at !== last && at !== parting }))
  }

  #segments(changes: CacheChanges): ScheduledSegment[] {
    const segments: ScheduledSegment[] = []
    const shares = this.#shareOut()
    // Whoever has to give way is the last, so none of those that are in the step already.
    for (let i = 0; i < this.#running.length; i++) {
      const state = this.#running[i]
      assert(state !== undefined)
      const { id, computed: offset } = state
      const count = shares.get(state) ?? 0
      if (count === 0 || !this.#grow(state, offset + count, changes)) continue
      const left = known(state) - offset
      const prefill = left > 1 || state.generated === 0
      segments.push({ id, offset, count, drafts: 0, samples: count === left, prefill })
    }
    let budget = segments.reduce((left, { count }) => left - count, this.limits.stepTokensMax)
    return segments.map((segment) => {
      const drafts = Math.min(budget, this.#draftsFor(segment))
      budget -= drafts
      return drafts === 0 ? segment : { ...segment, drafts, count: segment.count + drafts }
    })
  }

  /**
   * How many known tokens each running sequence feeds. Everyone who is generating has a token in each
   * step; half of the rest and more is for the first prompt in order, the other half lets short ones
   * past long ones. So neither waits for the other, and the first is slowed down to a half at most.
   */
  #shareOut(): ReadonlyMap<SequenceState, number> {
    const shares = new Map<SequenceState, number>()
    const prompts: SequenceState[] = []
    for (const state of this.#running) {
      if (known(state) - state.computed === 1) shares.set(state, 1)
      else prompts.push(state)
    }
    let budget = this.limits.stepTokensMax - shares.size
    const give = (state: SequenceState, most: number): void => {
      const share = shares.get(state) ?? 0
      const wanted = Math.min(known(state) - state.computed, this.#toNextMark(state))
      const more = Math.min(most, budget, wanted - share)
      shares.set(state, share + more)
      budget -= more
    }
    const [first, ...others] = prompts
    if (first === undefined) return shares
    give(first, Math.ceil(budget / 2))
    const left = (state: SequenceState): number => known(state) - state.computed
    for (const state of others.toSorted((a, b) => left(a) - left(b))) give(state, budget)
    give(first, budget)
    return shares
  }

  #toNextMark({ marks, computed }: SequenceState): number {
    const next = marks.find(({ pages }) => pages * this.#cache.pageTokens > computed)
    return next === undefined ? Infinity : next.pages * this.#cache.pageTokens - computed
  }

  /** Guesses that may be tried: within the answer's limit, and not past the page that has been taken. */
  #draftsFor({ id, offset, count, samples, prefill }: ScheduledSegment): number {
    const { offered, outputTokensMax, generated } = this.#state(id)
    if (!samples || prefill) return 0
    const inPage = this.#cache.pageTokens - ((offset + count - 1) % this.#cache.pageTokens) - 1
    return Math.max(0, Math.min(offered, outputTokensMax - generated - 1, inPage))
  }

  /** Finds a sequence pages for `tokens`; false if it is the last in order and gave way itself. */
  #grow(state: SequenceState, tokens: number, changes: CacheChanges): boolean {
    const pages = this.#pagesFor(tokens)
    while (pages - state.pages.length > this.#ledger.free) {
      // What only a prefix holds can always be had; one that a sequence shares would free nothing.
      const cold = this.#prefixes.coldest(({ pages }) =>
        this.#ledger.hasOneOwner(pages.at(-1) ?? 0),
      )
      if (cold !== null) {
        changes.dropped.push(this.#drop(cold.key))
        continue
      }
      const last = this.#running.at(-1)
      assert(last !== undefined, 'a sequence that runs alone fits')
      this.#preempt(last, changes)
      if (last === state) return false
    }
    this.#ledger.resize(state.pages, pages)
    return true
  }

  #preempt(state: SequenceState, changes: CacheChanges): void {
    this.#vacate(state)
    state.computed = 0
    state.marks = []
    // Whoever guesses starts afresh with the sequence, and offers again.
    state.offered = 0
    insert(this.#waiting, state)
    changes.preempted.push(state.id)
  }

  /** Takes a sequence out of the running set, if it is there. */
  #vacate(state: SequenceState): void {
    takeOut(this.#running, state)
    this.#ledger.resize(state.pages, 0)
  }

  #drop(key: string): string {
    this.#ledger.release(this.#prefixes.remove(key).pages, 'prefix')
    return key
  }

  /** What to keep of a sequence that has just been computed up to here. */
  #keep(state: SequenceState): Keep | null {
    const { id, computed, promptTokens, pageKeys } = state
    if (this.#prefixes.max === 0 || computed % this.#cache.pageTokens !== 0) return null
    const pages = computed / this.#cache.pageTokens
    const mark = state.marks.find((each) => each.pages === pages)
    const key = pageKeys[pages - 1]
    const ofAnswer = computed >= promptTokens
    if (key === undefined || (mark === undefined && !ofAnswer)) return null
    if (this.#prefixes.has(key)) {
      this.#prefixes.touch(pageKeys, pages)
      return null
    }
    const dropped: string[] = []
    if (ofAnswer) {
      // Each page of the answer makes the one before it useless: only the latest is kept.
      if (state.kept !== null && this.#prefixes.has(state.kept))
        dropped.push(this.#drop(state.kept))
      state.kept = key
    }
    if (this.#prefixes.full) {
      const coldest = this.#prefixes.coldest()
      if (mark?.optional === true || coldest === null) return null
      dropped.push(this.#drop(coldest.key))
    }
    this.#prefixes.add({ key, pages: this.#ledger.share(state.pages.slice(0, pages), 'prefix') })
    return { id, key, dropped }
  }

  #pagesFor(tokens: number): number {
    return Math.ceil(tokens / this.#cache.pageTokens)
  }

  /** Whole pages in front of the last of `tokens`. */
  #pagesBefore(tokens: number): number {
    return Math.floor((tokens - 1) / this.#cache.pageTokens)
  }

  #state(id: number): SequenceState {
    const state = this.#sequences.get(id)
    assert(state !== undefined, `sequence ${id} runs or waits`)
    return state
  }

  #assertBetweenSteps(): void {
    assert(this.#scheduled === null, 'the scheduled step was committed')
  }

  #assertInvariants(): void {
    const { runningMax, waitingMax, stepTokensMax } = this.limits
    assert(this.#running.length <= runningMax, `at most ${runningMax} run`)
    assert.equal(this.#running.length + this.#waiting.length, this.#sequences.size, 'one list each')
    assert(
      this.#sequences.size <= runningMax + waitingMax,
      `at most ${waitingMax} wait beside them`,
    )
    const tokens = (this.#scheduled ?? []).reduce((total, { count }) => total + count, 0)
    assert(tokens <= stepTokensMax, `a step has at most ${stepTokensMax} tokens`)
    for (const { id, computed, pages } of this.#waiting) {
      assert(computed === 0 && pages.length === 0, `sequence ${id} waits and holds nothing`)
    }
    let held = 0
    for (const state of this.#running) {
      const { id, computed, generated, outputTokensMax, pages } = state
      assert(generated <= outputTokensMax, `sequence ${id} generated no more than it may`)
      assert(computed < known(state), `sequence ${id} has something to feed`)
      assert(pages.length >= this.#pagesFor(computed), `sequence ${id} has pages for its rows`)
      held += pages.length
    }
    assert(
      this.#ledger.heldBySequences <= held,
      'pages that sequences hold are held by one that runs',
    )
  }
}

/** What a step does to make room. */
interface CacheChanges {
  readonly dropped: string[]
  readonly preempted: number[]
}

/** Tokens the sequence has: its prompt and what it has generated. */
function known({ promptTokens, generated }: SequenceState): number {
  return promptTokens + generated
}

/** The most a sequence may ever feed: the last token of an answer is not fed. */
function fedMax({ promptTokens, outputTokensMax }: ScheduledSequence): number {
  return promptTokens + outputTokensMax - 1
}

/** What a sequence has still to feed before its next token. */
function toTakeIn(state: SequenceState): number {
  return state.begun ? known(state) - state.computed : state.expectedTokens
}

function before(a: SequenceState, b: SequenceState): boolean {
  return a.order < b.order || (a.order === b.order && a.number < b.number)
}

/** Into a list in order, at its place; most go to the end. */
function insert(list: SequenceState[], state: SequenceState): void {
  const at = list.findLastIndex((other) => before(other, state)) + 1
  list.splice(at, 0, state)
}

function takeOut(list: SequenceState[], state: SequenceState): void {
  const at = list.indexOf(state)
  if (at >= 0) list.splice(at, 1)
}

function assertCount(name: string, value: number, least: number): void {
  assert(Number.isSafeInteger(value) && value >= least, `${name} ${value} is at least ${least}`)
}
