"""All five methods on one plane of PSNR against MACs: each trained once, then asked for budgets (make pareto)."""
