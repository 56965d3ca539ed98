import type { DeviceReport } from '../../gpu-backend/src/device/open.ts'

/** What a look at this machine found, and what it means for running Sluice here. */
export type Verdict = 'good' | 'limited' | 'bad'

export interface Finding {
  readonly name: string
  readonly verdict: Verdict
  /** What is there. */
  readonly found: string
  /** What follows from it. */
  readonly means: string
}

export interface MachineFacts {
  readonly nodeVersion: string
  readonly platform: string
  readonly cores: number
  readonly memoryBytes: number
  /** First line of `g++ --version`, or null without a compiler. */
  readonly compiler: string | null
  /** Version of the loaded NVIDIA kernel driver, or null. */
  readonly nvidiaDriver: string | null
  /** Version line of nvcc, or null. */
  readonly nvcc: string | null
  readonly port: number
  readonly portFree: boolean
  readonly devices: readonly DeviceReport[]
}

const GIB = 2 ** 30
/** CUDA 13 binaries do not load under an older driver. */
const DRIVER_MIN = 580
const MEMORY_MIN_BYTES = 4 * GIB

function nodeFinding(facts: MachineFacts): Finding {
  const [major = 0, minor = 0] = facts.nodeVersion.split('.').map(Number)
  const enough = major > 22 || (major === 22 && minor >= 18)
  return {
    name: 'Node',
    verdict: enough ? 'good' : 'bad',
    found: `${facts.nodeVersion} on ${facts.platform}`,
    means: enough
      ? 'runs every part of Sluice'
      : 'too old: run npm install in the repository root and start through npm',
  }
}

function memoryFinding(facts: MachineFacts): Finding {
  const enough = facts.memoryBytes >= MEMORY_MIN_BYTES
  return {
    name: 'Machine',
    verdict: enough ? 'good' : 'limited',
    found: `${facts.cores} cores, ${(facts.memoryBytes / GIB).toFixed(1)} GiB of memory`,
    means: enough
      ? 'enough for the local stack and the toy checkpoint'
      : 'the local stack wants about 2 GiB of its own: expect swapping',
  }
}

function compilerFinding(facts: MachineFacts): Finding {
  return facts.compiler === null
    ? {
        name: 'C++ compiler',
        verdict: 'limited',
        found: 'none (g++ is not on the path)',
        means: 'no native kernels: the reference device serves, slowly; install g++ 11 or newer',
      }
    : {
        name: 'C++ compiler',
        verdict: 'good',
        found: facts.compiler,
        means: 'native kernels are built with it when their sources change',
      }
}

function driverFinding(facts: MachineFacts): Finding {
  const { nvidiaDriver } = facts
  if (nvidiaDriver === null) {
    return {
      name: 'NVIDIA driver',
      verdict: 'limited',
      found: 'none',
      means: 'no GPU is used; everything else works',
    }
  }
  const enough = Number.parseInt(nvidiaDriver, 10) >= DRIVER_MIN
  return {
    name: 'NVIDIA driver',
    verdict: enough ? 'good' : 'limited',
    found: nvidiaDriver,
    means: enough
      ? 'new enough for CUDA 13 kernels'
      : `older than ${DRIVER_MIN}: CUDA 13 kernels will not load`,
  }
}

function nvccFinding(facts: MachineFacts): Finding {
  return {
    name: 'nvcc',
    verdict: facts.nvcc === null ? 'limited' : 'good',
    found: facts.nvcc ?? 'none',
    means:
      facts.nvcc === null
        ? 'kernels cannot be compiled here; running Sluice does not need it'
        : 'CUDA kernels can be compiled here',
  }
}

function portFinding(facts: MachineFacts): Finding {
  return {
    name: 'Port',
    verdict: facts.portFree ? 'good' : 'bad',
    found: `${facts.port} is ${facts.portFree ? 'free' : 'taken'}`,
    means: facts.portFree
      ? 'npm start can serve there'
      : `use another: npm start -- --port ${facts.port + 1}`,
  }
}

function deviceFinding(facts: MachineFacts): Finding {
  const here = facts.devices.filter((device) => device.available)
  const absent = facts.devices
    .filter((device) => !device.available)
    .map((device) => `${device.name} (${device.reason})`)
  return {
    name: 'Devices',
    verdict: here.length > 0 ? 'good' : 'bad',
    found: here.map((device) => device.name).join(', ') || 'none',
    means: absent.length === 0 ? 'every device is here' : `not here: ${absent.join('; ')}`,
  }
}

/** Judges the facts, in the order a person would want to read them. Pure. */
export function judge(facts: MachineFacts): readonly Finding[] {
  return [
    nodeFinding(facts),
    memoryFinding(facts),
    compilerFinding(facts),
    driverFinding(facts),
    nvccFinding(facts),
    deviceFinding(facts),
    portFinding(facts),
  ]
}
