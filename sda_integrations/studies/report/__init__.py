"""The report of a study: one HTML page, the same tables in Markdown, and the results as JSON."""

from sda_integrations.studies.report.writing import load_results, write_report

__all__ = ["load_results", "write_report"]
