// The reports of a study, read and put in the order in which a reader looks at them.
import { supersededTasks, workitem } from './api';
import { type Dataset, date, items, text } from './dicom';
import type { ReportOf } from './findings';
import { type Finding, nest, REPORT_CLASSES, readReport } from './sr';
import { readTask } from './workitem';

const KEY_OBJECT = '.88.59';
const CAD_REPORT = '.88.50';
const MISSED = 'Missed:';
const PREDECESSORS = '0040A360';
const VERDICT = "Reader's verdict";

/** Series of a study whose results newer ones have replaced. */
export async function replacedSeries(study: string): Promise<Set<string>> {
  const found = new Set<string>();
  for (const uid of await supersededTasks(study)) {
    const task = (await workitem(uid).catch(() => []))[0];
    for (const output of task ? readTask(task).outputs : []) found.add(output.series);
  }
  return found;
}

interface ReportSeries {
  uid: string;
  ds: Dataset;
}

/** The documents that this one succeeds (PS3.3 C.17.2.3). */
function predecessors(ds: Dataset): string[] {
  return items(ds, PREDECESSORS)
    .flatMap((study) => items(study, '00081115'))
    .flatMap((series) => items(series, '00081199'))
    .map((each) => text(each, '00081155'));
}

/** What the series say; `outdated` tells of a series whether newer results have replaced it. */
export async function readReports(
  series: readonly ReportSeries[],
  metadataOf: (series: ReportSeries) => Promise<Dataset[]>,
  outdated: (series: ReportSeries) => boolean,
): Promise<ReportOf[]> {
  const found: (ReportOf & { rank: number })[] = [];
  const succeeded = new Set<string>();
  const added = new Map<string, Finding[]>();
  for (const each of series) {
    const metadata = await metadataOf(each).catch(() => []);
    for (const ds of metadata) {
      const sopClass = text(ds, '00080016');
      if (!REPORT_CLASSES.test(sopClass) || sopClass.endsWith(KEY_OBJECT)) continue;
      const report = readReport(ds);
      // What a reader has said stands at the finding itself; a finding that only a reader has seen, in the report.
      const judged = report.findings.find((finding) => finding.evaluations.some(({ name }) => name === VERDICT));
      if (judged) {
        const evaluations = judged.evaluations.filter(({ name }) => name !== VERDICT);
        const missed = judged.evaluations.some(({ value }) => value.startsWith(MISSED));
        for (const sop of missed ? predecessors(ds) : [])
          added.set(sop, [...(added.get(sop) ?? []), { ...judged, evaluations }]);
        continue;
      }
      report.findings = nest(report.findings);
      for (const sop of predecessors(ds)) succeeded.add(sop);
      const when = [
        date(text(ds, '00080023') || text(ds, '00080021')),
        text(ds, '00080033')
          .slice(0, 4)
          .replace(/(..)(..)/, '$1:$2'),
      ]
        .filter(Boolean)
        .join(' ');
      const old = outdated(each);
      found.push({
        series: each.uid,
        sopInstance: text(ds, '00080018'),
        label: [old && 'Outdated', text(ds, '0008103E') || report.title, when].filter(Boolean).join(', '),
        report,
        outdated: old,
        // A CAD SR (PS3.3 A.35.5) says the same as the measurement report beside it, with less about it.
        rank: report.findings.some((f) => f.marks.length > 0) ? (sopClass.endsWith(CAD_REPORT) ? 1 : 2) : 0,
      });
    }
  }
  for (const { sopInstance, report } of found)
    for (const finding of added.get(sopInstance) ?? [])
      if (report.findings.every(({ trackingUID }) => trackingUID !== finding.trackingUID))
        report.findings.push({ ...finding, key: `${report.findings.length + 1}` });
  for (const each of found)
    if (succeeded.has(each.sopInstance) && !each.outdated) {
      each.outdated = true;
      each.label = `Outdated, ${each.label}`;
    }
  // The newest first, marks before tables: what a reader looks for; what was replaced last.
  found.reverse();
  found.sort((a, b) => Number(a.outdated) - Number(b.outdated) || b.rank - a.rank);
  return found;
}
