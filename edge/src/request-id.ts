import { randomLetters } from './bytes.ts'
import type { RandomBytes } from './bytes.ts'

/** The letters of `randomLetters` in the order in which texts are compared. */
const DIGITS = '234567abcdefghijklmnopqrstuvwxyz'
/** 45 bits of milliseconds: enough until the year 3084. */
const TIME_LETTERS = 9
/** Five bits each. */
const RANDOM_LETTERS = 15

export const REQUEST_ID = /^req_[a-z2-7]{24}$/

/**
 * A request's id: when it came, then 75 random bits. What is kept by request id (reservations,
 * records, the journal) is thereby kept in the order of time: neighbours are written together to
 * few pages of a table, where ids without an order would each touch a page of their own.
 */
export function newRequestId(nowMs: number, randomBytes: RandomBytes): string {
  return `req_${timeLetters(nowMs)}${randomLetters(RANDOM_LETTERS, randomBytes)}`
}

function timeLetters(nowMs: number): string {
  let letters = ''
  let rest = nowMs
  for (let place = 0; place < TIME_LETTERS; place += 1) {
    letters = DIGITS.charAt(rest % DIGITS.length) + letters
    rest = Math.floor(rest / DIGITS.length)
  }
  return letters
}
