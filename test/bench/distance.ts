/**
 * `--rtt 20`: each server is reached through a proxy that keeps every byte for half of that, in both directions and
 * in order. The proxies are a process of their own (this file, forked), so that they neither count as the client's
 * nor wait for its event loop. A new connection costs nothing extra.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Way } from './contenders.ts'
import type { Result } from './measure.ts'

function pump(from: Socket, to: Socket, ms: number): void {
  // timers of one length fire in the order they were set
  from.on('data', (chunk) => void setTimeout(() => to.write(chunk), ms))
  from.on('end', () => void setTimeout(() => to.end(), ms))
  from.on('error', () => to.destroy())
}

async function proxies(rtt_ms: number): Promise<void> {
  process.on('message', (port: number) => {
    const listener = createServer({ noDelay: true, allowHalfOpen: true }, (client) => {
      const server = connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
      pump(client, server, rtt_ms / 2)
      pump(server, client, rtt_ms / 2)
    }).listen(0, '127.0.0.1', () => process.send!([port, (listener.address() as AddressInfo).port]))
  })
  await once(process, 'disconnect')
  process.exit()
}

export interface Distance {
  readonly way: Way
  close(): void
}
export function distance(rtt_ms: number): Distance {
  if (rtt_ms === 0) return { way: (url) => Promise.resolve(url), close: () => undefined }
  const child = fork(import.meta.filename, [String(rtt_ms)], { execArgv: ['--import', 'tsx'] })
  const known = new Map<number, Promise<number>>()
  return {
    close: () => child.disconnect(),
    way: async (text) => {
      const url = new URL(text)
      const port = Number(url.port)
      if (!known.has(port))
        known.set(
          port,
          new Promise((resolve) => {
            const hear = ([from, to]: [number, number]): void => {
              if (from !== port) return
              child.off('message', hear)
              resolve(to)
            }
            child.on('message', hear).send(port)
          }),
        )
      url.port = String(await known.get(port))
      return url.href
    },
  }
}

/** How long the way there and back is, timers included, as the floor's quickest single one shows it. */
function trip(results: readonly Result[], rtt_ms: number): number {
  const ones = results
    .filter((r) => r.contender === 'floor' && r.workers === 1 && r.workload !== 'transfer')
    .map((r) => r.p50_ms)
  return Math.max(rtt_ms, ones.length > 0 ? Math.min(...ones) : 0)
}

/** How many times one after another something went there and back: the median latency in such trips. */
export function roundTrips(results: readonly Result[], rtt_ms: number): string[] {
  const one = trip(results, rtt_ms)
  return results
    .filter((r) => r.workers === 1)
    .map(
      (r) =>
        `${r.workload.padEnd(8)} ${r.contender.padEnd(12)} ${(r.p50_ms / one).toFixed(1)} round trips one after another (p50 ${r.p50_ms.toFixed(1)} ms, one is ${one.toFixed(1)} ms; p99 ${(r.p99_ms / one).toFixed(1)})`,
    )
}

export function roundTripsTable(results: readonly Result[], rtt_ms: number): string {
  const [names, workloads] = [
    [...new Set(results.map((r) => r.contender))],
    [...new Set(results.map((r) => r.workload))],
  ]
  const cell = (name: string, workload: string): string => {
    const r = results.find((x) => x.contender === name && x.workload === workload && x.workers === 1)
    return r ? `${(r.p50_ms / trip(results, rtt_ms)).toFixed(1)}` : '–'
  }
  return [
    `| ${rtt_ms} ms there and back | ${workloads.join(' | ')} |`,
    `| --- |${' --- |'.repeat(workloads.length)}`,
    ...names.map((name) => `| ${name} | ${workloads.map((w) => cell(name, w)).join(' | ')} |`),
  ].join('\n')
}

if (process.argv[1] === import.meta.filename) await proxies(Number(process.argv[2]))
