import { describe, expect, it, vi } from 'vitest'
import { deviceNames, isDeviceName, listDevices, openDevice } from './open.ts'

describe('devices', () => {
  it('are listed fastest first, the reference always there, with a reason for each missing one', async () => {
    const reports = await listDevices()
    expect(reports.map((report) => report.name)).toEqual(['cuda', 'cpu', 'reference'])
    expect(reports.at(-1)).toEqual({ name: 'reference', available: true })
    for (const report of reports) {
      if (!report.available) expect(report.reason).toMatch(/\w+ \w+/)
    }
  })

  it('open by name, or refuse with the reason that the list gives', async () => {
    for (const report of await listDevices()) {
      if (report.available) {
        const device = await openDevice(report.name)
        expect(device.name).toBe(report.name)
        device.close()
        continue
      }
      await expect(openDevice(report.name)).rejects.toMatchObject({
        code: 'device_unavailable',
        message: `${report.name}: ${report.reason}`,
      })
    }
  })

  it('are chosen by auto: the first that is there, with the reason for each passed over', async () => {
    const reports = await listDevices()
    const first = reports.findIndex((report) => report.available)
    const notes: string[] = []
    const device = await openDevice('auto', { onNote: (note) => notes.push(note) })
    expect(device.name).toBe(reports[first]?.name)
    expect(notes).toEqual(
      reports
        .slice(0, first)
        .map((report) =>
          report.available ? '' : `device ${report.name} is not here: ${report.reason}`,
        ),
    )
    device.close()
  })

  it('end at the reference where there is no compiler, which is said', async () => {
    vi.stubEnv('CXX', 'no-such-compiler')
    const notes: string[] = []
    const device = await openDevice('auto', { onNote: (note) => notes.push(note) })
    vi.unstubAllEnvs()
    expect(device.name).toBe('reference')
    expect(notes.at(-1)).toBe(
      'device cpu is not here: there is no C++ compiler no-such-compiler; install g++ 11 or newer',
    )
  })

  it('have known names', () => {
    expect(deviceNames.every(isDeviceName)).toBe(true)
    expect(isDeviceName('auto')).toBe(false)
  })
})
