/**
 * Longest text given to the encoder at once, in UTF-16 units. Its regex engine aborts, and takes the
 * whole module with it, on a run of some 200 000 characters that one pattern walks through; a prompt
 * may well be a megabyte of one letter.
 */
const windowUnitsMax = 32_768

/**
 * Cuts a text into windows that encode to the same ids as the whole: the seams lie where the models'
 * three splits always part two characters. Only where a window holds no such place (one endless word)
 * is it cut anywhere, and the tokens round that seam may differ from the whole text's.
 */
export function* encodeWindows(text: string, unitsMax = windowUnitsMax): Generator<string> {
  let start = 0
  while (text.length - start > unitsMax) {
    const end = seam(text, start + 1, start + unitsMax)
    yield text.slice(start, end)
    start = end
  }
  yield text.slice(start)
}

/** The last place in [first, last] where the text may be cut; `last` or one less if there is none. */
function seam(text: string, first: number, last: number): number {
  for (let at = last; at >= first; at -= 1) {
    if (parted(text.charAt(at - 1), text.charAt(at))) return at
  }
  return isLowSurrogate(text.charCodeAt(last)) ? last - 1 : last
}

const numberPattern = /^\p{N}$/u
const ideographPattern = /^[一-龥぀-ゟ゠-ヿ]$/
const letterPattern = /^\p{L}$/u
const letterOrMarkPattern = /^[\p{L}\p{M}]$/u
const surrogatePattern = /^[\ud800-\udfff]$/

/**
 * Whether the splits always part these two: numbers and ideographs are isolated in runs, and every
 * pattern that takes letters ends with the run of them.
 */
function parted(left: string, right: string): boolean {
  if (surrogatePattern.test(left) || surrogatePattern.test(right)) return false
  return (
    numberPattern.test(left) !== numberPattern.test(right) ||
    ideographPattern.test(left) !== ideographPattern.test(right) ||
    (letterPattern.test(left) && !letterOrMarkPattern.test(right))
  )
}

function isLowSurrogate(unit: number): boolean {
  return unit >= 0xdc00 && unit <= 0xdfff
}
