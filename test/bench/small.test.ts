// What `npm run bench -- --small` calls slower; the measuring itself is not for `npm test`.
import { expect } from 'chai'
import { expected, fallen, SMALL, type Expected } from './small.ts'

describe('bench --small', () => {
  const before: Expected = {
    date: '2026-11-22',
    machine: 'this one',
    of: { 'update 1': { ratio: 0.3, sends: 6 }, 'select 32': { ratio: 0.45, sends: 3 } },
  }
  const update = { workload: 'update', workers: 1, ratio: 0.3, sends: 6, others: 0 } as const
  const said = (...results: Parameters<typeof fallen>[1][number][]): string => fallen(before, results).join('\n')

  it('is silent about what is as it was, better, or worse by less than a third', () => {
    expect(
      said(
        update,
        { ...update, ratio: 0.9, sends: 1 },
        { ...update, ratio: 0.21, sends: 7.9 },
        { workload: 'select', workers: 32, ratio: 0.31, sends: 3, others: 0 },
      ),
    ).to.equal('')
  })
  it('control: names what fell by more than a third, with both figures', () => {
    expect(said({ ...update, ratio: 0.19 })).to.equal(
      "update 1: 0.190 of plain pg's rate, and 0.300 on 2026-11-22: it fell by more than a third",
    )
    expect(said({ ...update, ratio: 0.19, others: 0.5 })).to.include('others had 50 % of the machine')
    expect(said({ ...update, sends: 9 })).to.equal(
      'update 1: 9.0 sends a transaction, and 6.0 on 2026-11-22: more by over a third',
    )
  })
  it('control: nothing done is no ratio, and not fine', () =>
    expect(said({ ...update, ratio: NaN, sends: NaN }).split('\n')).to.have.length(2))
  it('control: what nobody expected is named', () =>
    expect(said({ ...update, workers: 8 })).to.include('nothing is expected of it'))
  it('expected.json knows each of its combinations', () =>
    expect(Object.keys(expected().of)).to.have.members(SMALL.map(([name, workers]) => `${name} ${workers}`)))
})
