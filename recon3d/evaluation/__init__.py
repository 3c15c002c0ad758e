"""recon3d.evaluation"""
