/**
 * `pg-quorum catch-up`: brings a replica that was away up to the others. Transactions in doubt are finished first, since they may be
 * what it waits for. Drivers in use do this by themselves; this is for watching it happen, or when nobody is connected. Every
 * changeset is its own commit, so it may be interrupted and started again at will.
 */
import type { Command } from 'commander'
import { catchUp } from '../repair/catch-up.ts'
import { now_ms } from '../runtime.ts'
import { doubtsOf, finishDoubts, withCluster } from './doubts.ts'
import { pick, survey } from './survey.ts'
import { count, dress, EXIT, inWords, onInterruption, say, sayJson, urlsOf, type Common } from './terminal.ts'

const EXAMPLE = `$ pg-quorum catch-up 10.0.0.2:5432
10.0.0.2:5432/app: 4000 of about 9120 changesets
10.0.0.2:5432/app: current, 9120 changesets brought over`

interface Done { readonly replica: string; readonly brought: number; readonly error: string | null }

export function addCatchUp(program: Command): void {
  dress(program.command('catch-up').description('bring replicas that are behind up to the others; may be interrupted and repeated')
    .argument('[replica]', 'host:port, or the member number that `status` shows; default: all that are behind'), EXAMPLE)
    .action(async (which: string | undefined, options: Common) => {
      const urls = urlsOf(options.replicas ?? [])
      const found = await survey(urls)
      const targets = which === undefined ? found.replicas.filter((r) => r.state === 'behind') : [pick(found, which)]
      const barred = targets.find((r) => r.state !== 'current' && r.state !== 'behind')
      if (barred) throw new Error(`${barred.name} cannot be caught up, it is ${barred.state.replaceAll('-', ' ')}: ${barred.error}`)
      const speak = options.json ? (): void => undefined : say
      onInterruption(() => process.stderr.write('stopped; the same command goes on from here\n'))
      const report = await withCluster(urls, found, async (cluster) => {
        const doubts = await finishDoubts(cluster, doubtsOf(found))
        const finished = doubts.filter((d) => typeof d.resolution === 'string' && d.resolution !== 'left').length
        if (finished > 0) speak(`${count(finished, 'transaction')} in doubt finished first`)
        const done: Done[] = []
        for (const target of targets) {
          const replica = cluster.replicas[found.replicas.indexOf(target)]
          if (!replica) continue
          const meter = progress(target.name, target.behind, speak)
          try {
            const brought = await catchUp(cluster, replica, new Set(), (p) => meter(p.brought))
            done.push({ replica: target.name, brought, error: null })
            speak(`${target.name}: current, ${count(brought, 'changeset')} brought over`)
          } catch (error) {
            done.push({ replica: target.name, brought: 0, error: inWords(error) })
            speak(`${target.name}: stopped: ${inWords(error)}`)
          }
        }
        return { in_doubt: doubts, replicas: done }
      })
      if (options.json) sayJson(report)
      else if (targets.length === 0) say(`No replica that answers is behind${found.usable < found.replicas.length ? `; ${found.replicas.length - found.usable} cannot be used, see \`pg-quorum status\`` : ''}.`)
      process.exitCode = report.replicas.some((d) => d.error !== null) ? EXIT.failed : EXIT.fine
    })
}

/** A plain line a second, in a terminal and in a pipe alike. */
function progress(name: string, about: number, speak: (line: string) => void): (brought: number) => void {
  let last_ms = now_ms()
  return (brought) => {
    if (now_ms() - last_ms < 1000) return
    last_ms = now_ms()
    speak(`${name}: ${brought} of about ${Math.max(about, brought)} changesets`)
  }
}
