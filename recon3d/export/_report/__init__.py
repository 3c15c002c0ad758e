"""What ``report.html`` is made of: regions, figures and packed curves, and the page that draws them."""
