"""GR-IQA records: grounded rationales, their files, filters and reports."""
