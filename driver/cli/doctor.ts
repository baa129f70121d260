/**
 * `pg-quorum doctor`: checks everything that the promise needs on every server that answers, and says in one
 * sentence how to put right what is not. For the day after, and for before; `status` is for now. Changes nothing.
 */
import type { Command } from 'commander'
import { limitsOf, replicaConfigs } from '../config.ts'
import { nameOf } from '../replica/address.ts'
import { CHECKS } from './checks.ts'
import type { Finding } from './finding.ts'
import { examine } from './examine.ts'
import { visit } from './facts.ts'
import { survey } from './survey.ts'
import { count, dress, EXIT, fitted, inWords, say, sayJson, urlsOf, wholeNumber, type Common } from './terminal.ts'

const EXAMPLE = `$ pg-quorum doctor
error    triggers     10.0.0.2:5432/app: public.accounts: quorum_update is not
                      enabled: writes to it are not carried
                      There: \`ALTER TABLE public.accounts ENABLE TRIGGER
                      quorum_update\`; then \`pg-quorum verify\`.
3 replicas, 16 checks: 1 error, 0 warnings.`

export function addDoctor(program: Command): void {
  dress(
    program
      .command('doctor')
      .description('check everything that the promise needs, and say how to put it right')
      .option('--most-log <MB>', 'warn when the log of changesets is larger', wholeNumber(1, 1_000_000), 1024),
    EXAMPLE,
  ).action(async (options: Common & { mostLog: number }) => {
    const urls = urlsOf(options.replicas ?? [])
    const ms = limitsOf({}).call_ms
    // Also where the survey will find nobody: a role that may not see the schema is a finding too.
    const asking = Promise.allSettled(
      replicaConfigs({ replicas: urls }).map((config) =>
        visit(config, ms, (client) => examine(client, nameOf(config))),
      ),
    )
    const found = await survey(urls)
    const asked = await asking
    const exams = asked.flatMap((a) => (a.status === 'fulfilled' ? a.value : []))
    const failed = asked.flatMap((a, i): Finding[] => {
      const sight = found.replicas[i]
      if (a.status === 'fulfilled' || !sight || sight.state === 'unreachable' || sight.state === 'recovering') return []
      return [
        {
          level: 'error',
          replica: sight.name,
          says: `could not be examined: ${inWords(a.reason)}`,
          cure: 'Run doctor again; if it stays so, nothing is known of it.',
        },
      ]
    })
    const checks = Object.entries(CHECKS).map(([check, judge]) => {
      const findings = [
        ...judge({ survey: found, exams, most_log_bytes: options.mostLog * 1024 * 1024 }),
        ...(check === 'replicas' ? failed : []),
      ]
      return {
        check,
        level: (['error', 'warning'] as const).find((l) => findings.some((f) => f.level === l)) ?? 'ok',
        findings,
      }
    })
    const [errors, warnings] = (['error', 'warning'] as const).map(
      (l) => checks.flatMap((c) => c.findings).filter((f) => f.level === l).length,
    ) as [number, number]
    if (options.json) sayJson({ errors, warnings, checks })
    else {
      for (const { check, level, findings } of checks) {
        if (level === 'ok')
          say(
            line(
              'ok',
              check,
              exams.length < found.replicas.length ? `on the ${exams.length} that could be examined` : '',
            ),
          )
        for (const f of findings) told(f, level === 'ok' ? '' : check)
      }
      say(
        `${count(found.replicas.length, 'replica')}, ${count(checks.length, 'check')}: ` +
          `${count(errors, 'error')}, ${count(warnings, 'warning')}.`,
      )
    }
    process.exitCode = errors > 0 ? EXIT.failed : EXIT.fine
  })
}

const INDENT = 22
const line = (level: string, check: string, text: string): string =>
  `${level.padEnd(9)}${check.padEnd(13)}${text}`.trimEnd()

function told(f: Finding, check: string): void {
  fitted(line(f.level, check, `${f.replica === null ? '' : `${f.replica}: `}${f.says}`), INDENT).forEach(say)
  fitted(' '.repeat(INDENT) + f.cure, INDENT).forEach(say)
}
