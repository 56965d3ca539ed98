import { describe, expect, it } from 'vitest'
import { Histogram, PrometheusText } from './prometheus-text.ts'

describe('PrometheusText', () => {
  it('writes help, type and samples, with labels escaped', () => {
    const text = new PrometheusText({ model_name: 'a"b\\c\n' })
    text.gauge('now', 'How it stands.', 0.5)
    text.counter('all_total', 'What was done.', 3)
    text.counters(
      'by_total',
      'By kind.',
      'kind',
      new Map([
        ['x', 1],
        ['y', 2],
      ]),
    )
    expect(text.toString()).toBe(
      [
        '# HELP now How it stands.',
        '# TYPE now gauge',
        'now{model_name="a\\"b\\\\c\\n"} 0.5',
        '# HELP all_total What was done.',
        '# TYPE all_total counter',
        'all_total{model_name="a\\"b\\\\c\\n"} 3',
        '# HELP by_total By kind.',
        '# TYPE by_total counter',
        'by_total{model_name="a\\"b\\\\c\\n",kind="x"} 1',
        'by_total{model_name="a\\"b\\\\c\\n",kind="y"} 2',
        '',
      ].join('\n'),
    )
  })

  it('writes histograms cumulatively, bounds included, with a bucket for the rest', () => {
    const histogram = new Histogram([0.1, 1])
    for (const value of [0.05, 0.1, 0.5, 2, 3]) histogram.observe(value)
    const text = new PrometheusText({})
    text.histogram('took_seconds', 'How long.', histogram)
    expect(text.toString().split('\n').slice(2, -1)).toEqual([
      'took_seconds_bucket{le="0.1"} 2',
      'took_seconds_bucket{le="1"} 3',
      'took_seconds_bucket{le="+Inf"} 5',
      'took_seconds_sum 5.65',
      'took_seconds_count 5',
    ])
  })
})
