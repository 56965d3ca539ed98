import { describe, expect, it } from 'vitest'
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

  it('are chosen by auto: the first that is there', async () => {
    const first = (await listDevices()).find((report) => report.available)
    const device = await openDevice('auto')
    expect(device.name).toBe(first?.name)
    device.close()
  })

  it('have known names', () => {
    expect(deviceNames.every(isDeviceName)).toBe(true)
    expect(isDeviceName('auto')).toBe(false)
  })
})
