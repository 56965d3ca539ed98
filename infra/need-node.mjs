// Runs before every script, in plain JavaScript, so that an old Node answers with a sentence and
// not with a syntax error from the first .ts file it cannot read.
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(
    `Sluice needs Node 22.18 or newer; this is ${process.versions.node} (${process.execPath}).\n` +
      `'npm install' brings Node 24 for Linux on x64 and arm64: run it in the repository root without\n` +
      `--omit=optional, and start everything through npm (npm start, npm test). Elsewhere install Node 24.\n`,
  )
  process.exit(1)
}
