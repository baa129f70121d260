/**
 * `pg-quorum prune`: shortens the log that catch-up needs. Without a policy only what every replica has is deleted,
 * which can hurt nobody; with one also what a replica that is away may still need, and that is said first, and done
 * only with --yes.
 */
import type { Command } from 'commander'
import { badInput } from '../errors.ts'
import { keepOf } from '../config.ts'
import { prune, type PruneReport } from '../repair/prune.ts'
import type { Keep } from '../replica/replica.ts'
import { withCluster } from './doubts.ts'
import { survey } from './survey.ts'
import {
  count,
  dress,
  EXIT,
  fileOf,
  fitted,
  onInterruption,
  say,
  sayJson,
  size,
  urlsOf,
  type Common,
} from './terminal.ts'

const EXAMPLE = `$ pg-quorum prune --keep-days 7 --dry-run
10.0.0.1:5432/app: would free 118 MB: 48211 changesets, 96210 history rows
10.0.0.2:5432/app: would free 118 MB: 48211 changesets, 96210 history rows
10.0.0.3:5432/app: would free 117 MB: 48199 changesets, 96180 history rows
Nothing was changed.`

interface Options extends Common {
  dryRun?: true
  yes?: true
  keepChangesets?: number
  keepDays?: number
  keepOutcomes?: number
}

export function addPrune(program: Command): void {
  dress(
    program
      .command('prune')
      .description('delete from the log of changesets what every replica has')
      .option(
        '--keep-changesets <count>',
        'also what is older than the last so many, even if\na replica that is away lacks it',
        number,
      )
      .option(
        '--keep-days <days>',
        'also what is older than so many days, even if\na replica that is away lacks it',
        number,
      )
      .option(
        '--keep-outcomes <days>',
        'also that older transactions were committed, if every\nreplica has them: outcomeOf then says unknown',
        number,
      )
      .option('--dry-run', 'only say what would be deleted')
      .option('-y, --yes', 'although a replica will need a clone afterwards'),
    EXAMPLE,
  ).action(async (options: Options) => {
    const urls = urlsOf(options.replicas ?? [])
    const given: Keep = {
      ...(options.keepChangesets === undefined ? {} : { changesets: options.keepChangesets }),
      ...(options.keepDays === undefined ? {} : { days: options.keepDays }),
      ...(options.keepOutcomes === undefined ? {} : { outcomeDays: options.keepOutcomes }),
    }
    const keep = keepOf(Object.keys(given).length > 0 ? given : (fileOf(options)?.keep ?? {}))
    const found = await survey(urls)
    onInterruption(() => process.stderr.write('stopped; what was deleted is deleted, the rest is untouched\n'))
    const report = await withCluster(urls, found, async (cluster) => {
      // First a look, if something could be given up: who is told so afterwards is told too late.
      const foreseen =
        options.dryRun || (Object.keys(keep).length > 0 && !options.yes) ? await prune(cluster, keep, true) : undefined
      if (options.dryRun && foreseen) return foreseen
      const lost = Math.max(0, ...(foreseen?.replicas.map((r) => r.given_up) ?? []))
      if (lost > 0)
        throw new Error(
          `this would delete ${count(lost, 'changeset')} that ${losers(found)} may still need, ` +
            'and would then need a clone; `--yes` does it all the same. Nothing was changed',
        )
      return prune(cluster, keep)
    })
    if (options.json) sayJson({ dry_run: options.dryRun ?? false, keep, ...report })
    else for (const line of linesOf(report, options.dryRun ?? false)) fitted(line, 2).forEach(say)
    process.exitCode = report.replicas.some((r) => r.error !== null && !report.silent.includes(r.replica))
      ? EXIT.failed
      : EXIT.fine
  })
}

function losers(found: Awaited<ReturnType<typeof survey>>): string {
  const names = found.replicas
    .filter((r) => r.state !== 'current')
    .map((r) => `${r.name} (${r.state.replaceAll('-', ' ')})`)
  return names.length > 0 ? names.join(' and ') : 'a replica'
}

function linesOf(report: PruneReport, dry: boolean): string[] {
  const lines = report.replicas.map((r) => {
    if (r.error !== null)
      return `${r.replica}: ${
        report.silent.includes(r.replica) ? 'does not answer, nothing was done there' : `stopped: ${r.error}`
      }`
    const asides = [
      ...(r.aborted > 0 ? [`${r.aborted} of them of transactions that were rolled back`] : []),
      ...(r.given_up > 0 ? [`${r.given_up} of them not known to be on all replicas`] : []),
      ...(r.needed > 0
        ? [`${count(r.needed, 'changeset')} kept, a replica may need ${r.needed === 1 ? 'it' : 'them'}`]
        : []),
    ]
    const parts = [
      ...(r.changesets > 0 ? [count(r.changesets, 'changeset'), count(r.history, 'history row')] : []),
      ...(r.outcomes > 0 ? [count(r.outcomes, 'outcome')] : []),
    ]
    const freed =
      parts.length === 0 ? 'nothing to delete' : `${dry ? 'would free' : 'freed'} ${size(r.bytes)}: ${parts.join(', ')}`
    return [`${r.replica}: ${freed}`, ...asides].join('; ')
  })
  const kept = report.silent.length > 0 && report.replicas.some((r) => r.needed > 0)
  if (kept)
    lines.push(
      `${report.silent.join(' and ')} did not say what it has, so what it may need is kept. ` +
        '--keep-days or --keep-changesets delete it nevertheless; it then needs a clone.',
    )
  if (dry) lines.push('Nothing was changed.')
  else if (report.replicas.some((r) => r.bytes > 0))
    lines.push('PostgreSQL uses the space again for new changesets; the files themselves do not become smaller.')
  return lines
}

function number(text: string): number {
  const n = Number(text)
  if (text.trim() === '' || !Number.isFinite(n)) throw badInput(`"${text}" is not a number`)
  return n
}
