"""The report: `page` builds it from `sections`; `card` is the dataset card."""
