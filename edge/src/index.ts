import { createApp } from './app.ts'

export { Directory } from './objects/directory/directory.ts'
export { Pool } from './objects/pool/pool.ts'
export { Tenant } from './objects/tenant/tenant.ts'

export default createApp({
  fetch: (url, init) => fetch(url, init),
  now: () => Date.now(),
  random: () => Math.random(),
  randomBytes: (lengthBytes) => crypto.getRandomValues(new Uint8Array(lengthBytes)),
  log: (line) => console.log(line),
})
