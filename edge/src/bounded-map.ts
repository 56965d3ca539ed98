/** A map that never grows beyond its bound: what is set becomes the youngest, the oldest makes room. */
export class BoundedMap<Key, Value> extends Map<Key, Value> {
  readonly #sizeMax: number

  constructor(sizeMax: number) {
    super()
    this.#sizeMax = sizeMax
  }

  override set(key: Key, value: Value): this {
    // A map leaves a key that is set again in its old place.
    this.delete(key)
    super.set(key, value)
    if (this.size <= this.#sizeMax) return this
    const oldest = this.keys().next()
    if (oldest.done !== true) this.delete(oldest.value)
    return this
  }
}
