"""The report: one self-contained HTML file that shows a run's journey in numbers."""

from server_side.report.inputs import ReportInputs
from server_side.report.rendering import write_report

__all__ = ["ReportInputs", "write_report"]
